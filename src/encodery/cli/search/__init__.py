"""encodery search: index documents and search them."""

from __future__ import annotations

from encodery.cli import group

app = group(__name__, "Index documents and search them by terms (BM25) and by meaning.")
