"""Networks that learn without labels, judged by retrieval of what they have not learned from."""
