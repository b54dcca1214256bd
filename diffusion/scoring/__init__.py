"""From diffused scores to ranked lists."""
