"""Samples of a round that show the method best, with all that was said of them: for `inspect`, notebooks and trackers' traces."""
