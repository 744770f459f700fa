"""The sums task, the embedded default: signed terms modulo 100 in any order, with its models and prompts."""
