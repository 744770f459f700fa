"""Commands that check, run and repeat rounds."""
