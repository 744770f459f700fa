"""Invalid configurations: what is wrong with them, in plain words, and what can still be read of them."""
