"""The method itself, pure: segmentation, consensus, weights, losses, step plans, metrics."""
