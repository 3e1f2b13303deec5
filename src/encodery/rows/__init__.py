"""Labelled data: files and folders to tables of rows by split, roles of columns, held-out shares, what is wrong."""
