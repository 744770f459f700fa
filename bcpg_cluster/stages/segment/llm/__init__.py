"""Steps by a language model that is shown numbered lines."""
