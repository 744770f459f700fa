"""Prompts to rollouts."""
