"""Step checkpoints: what lies on disk, what is wrong with it, which are kept."""
