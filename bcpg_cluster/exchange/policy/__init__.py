"""The policy of a run for others: its directory, its card, and the push to a hub."""
