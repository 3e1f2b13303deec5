"""The steps of a corpus: families of readers, rewrites, filters and ways to find duplicates."""
