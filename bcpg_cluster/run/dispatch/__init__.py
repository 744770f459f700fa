"""What decides which shard goes first."""
