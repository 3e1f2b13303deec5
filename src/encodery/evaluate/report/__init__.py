"""The report of a run: one self-contained HTML page, with its metrics (JSON) and training curves (CSV) next to it."""
