"""Responses that are programs."""
