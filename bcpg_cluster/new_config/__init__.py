"""A first config for a model and data of one's own: read what is there, propose, write. Start at ``write.py``."""
