"""Files to clean documents, on datatrove: read, rewrite, filter, remove duplicates, split off held-out text."""
