"""Judges that are language models: prompts, windows, answers, the cache of answers, and the transport they are asked through."""
