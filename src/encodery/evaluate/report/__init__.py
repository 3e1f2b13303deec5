"""The report of a run: one self-contained HTML file, with its figures and curves beside it."""
