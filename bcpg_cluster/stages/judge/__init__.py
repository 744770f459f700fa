"""Steps to verdicts."""
