"""Wrong responses to steps."""
