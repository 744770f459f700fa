"""Engines without models, shipped for users' tests."""
