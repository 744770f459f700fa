"""How a checkpoint becomes the model that is trained."""
