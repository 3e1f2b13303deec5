"""Text encoders: texts to dense, sparse, multi-vector or static embeddings."""
