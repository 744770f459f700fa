"""What the rest of the system asks of an engine, and one file for each vendor behind it."""
