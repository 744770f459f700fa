"""What is known to be wrong before anything starts."""
