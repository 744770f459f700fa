"""Commands that show and steer a run."""
