"""Reports of rounds and runs."""
