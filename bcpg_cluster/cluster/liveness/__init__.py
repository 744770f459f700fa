"""When a member is given up: deadlines of leases, heartbeats, and the progress that tells slow work from a hang."""
