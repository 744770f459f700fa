"""Weighted rows to new weights."""
