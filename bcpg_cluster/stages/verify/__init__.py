"""Responses to rewards."""
