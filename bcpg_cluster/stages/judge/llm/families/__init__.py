"""Generative process reward models: judges that were trained to write their verdicts, each in a format of its own."""
