"""Texts to vectors: pooling, finishing, and the embedder that runs them over any number of texts."""
