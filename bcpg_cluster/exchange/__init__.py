"""What goes out of a run for other tools, and what comes in from them. See docs/design.md."""
