"""What a run does about damaged files of its own: let go of shards so that they are made again, and write prompt tables."""
