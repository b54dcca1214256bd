"""Load on the service: its speed, its limits, and updates beside searches."""
