"""The demonstration: digits, and objects in drawn scenes."""
