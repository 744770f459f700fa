"""Iterative offline RL of reasoning LLMs on Ray: generate, segment, judge, train, push, round after round."""

__version__ = "0.1.0"
