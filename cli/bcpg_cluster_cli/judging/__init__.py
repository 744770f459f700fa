"""Commands about judges and steps."""
