"""Image files: reading, decoding, batches."""
