"""Whether a run can be made again here, making it again, and whether the same came out."""
