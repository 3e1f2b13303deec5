"""The steps of a corpus build: families of readers, rewrites, filters and deduplication methods."""
