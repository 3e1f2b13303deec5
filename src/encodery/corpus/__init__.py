"""Turn files into clean documents, with datatrove: read, rewrite, filter, deduplicate, and split off held-out text."""
