"""What a run's journal is made of: lines, their replay, the lock, and the two places it may lie in."""
