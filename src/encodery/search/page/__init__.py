"""A small page to search an index with, served on this machine; `server.py` answers, the others say what it shows."""
