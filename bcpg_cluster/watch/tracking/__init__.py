"""Experiment trackers: the same numbers as the reports and the trainer's telemetry, in TensorBoard, trackio, wandb or MLflow."""
