"""Labelled data: read files and folders into tables by split, assign columns to roles, split, and check for errors."""
