"""Whether what lies in a run directory is what was written, and putting it right: ``bcpg-cluster verify``."""
