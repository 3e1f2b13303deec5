"""A small page to search an index with, served on this machine. `server.py` answers requests; the others make the
content."""
