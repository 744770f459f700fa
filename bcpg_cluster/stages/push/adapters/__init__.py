"""Adapters pushed alone, and merged into the weights that an engine holds."""
