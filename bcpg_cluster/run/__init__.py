"""A run: the round loop and what it drives."""
