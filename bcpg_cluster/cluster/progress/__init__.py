"""Whether a member that is busy gets anywhere: what it says of itself, and how long the driver waits for more."""
