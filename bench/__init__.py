"""Quality and speed, measured beside what one would otherwise use."""
