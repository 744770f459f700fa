"""The embedded default: a small task, tiny models that can do part of it, and its prompts."""
