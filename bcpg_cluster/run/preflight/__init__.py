"""Checks that run before anything starts."""
