"""encodery embed: train embedding models, encode texts, mine negatives and distil static embeddings."""

from __future__ import annotations

from encodery.cli import group

app = group(__name__, "Train embedding models and encode texts with them.")
