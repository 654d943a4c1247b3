"""What runs inside such a process; it imports as little as possible."""
