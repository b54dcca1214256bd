"""Object discovery measured on generated scenes and on photos."""

# The parts of the benchmark, in the order in which they are measured.
SECTIONS = ("pasted", "several", "drawn", "raccoons", "time")
