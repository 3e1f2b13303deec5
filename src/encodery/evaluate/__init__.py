"""A model to figures one may quote, and a run to a page one can read."""
