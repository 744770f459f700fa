"""The only room that imports DeepSpeed."""
