"""What a run does about damage that it finds before it starts from something."""
