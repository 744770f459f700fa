"""Verdicts to token weights."""
