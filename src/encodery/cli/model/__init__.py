"""encodery model: import, export, edit, merge and inspect models."""

from __future__ import annotations

from encodery.cli import group

app = group(__name__, "Import, export, edit, merge and inspect models.")
