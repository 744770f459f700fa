"""How sequences lie in a forward, and the proof that they stay apart there."""
