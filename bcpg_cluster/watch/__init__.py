"""What people see of a run, and how they steer it."""
