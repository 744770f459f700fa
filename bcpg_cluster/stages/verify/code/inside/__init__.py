"""What runs inside the sandbox, and how it gets there. Standard library only, and little of it."""
