"""New weights to the rollout engines, proven."""
