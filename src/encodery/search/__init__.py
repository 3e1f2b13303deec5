"""Search: documents are cut into passages, stored with their words and vectors, and ranked by both."""
