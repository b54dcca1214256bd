"""Linear algebra shared by several solvers."""
