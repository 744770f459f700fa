"""The chain task: operations modulo 100 from left to right, with its models and prompts. An adverse task: see docs/results.md."""
