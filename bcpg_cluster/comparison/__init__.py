"""Comparing training methods on one offline data set."""
