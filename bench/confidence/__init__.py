"""How well the confidence, the cautious ranking and the number of relevant results do."""
