"""Pools and gangs of members, and the runtimes they live on."""
