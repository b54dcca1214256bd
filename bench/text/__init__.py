"""Re-ranking of text: collections of texts, each by several embeddings."""
