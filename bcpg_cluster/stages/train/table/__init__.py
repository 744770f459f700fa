"""The rows of a round on disk, decoded once a machine and read one at a time."""
