"""encodery import: the same as load."""

from __future__ import annotations

from encodery.cli.load import command as command
