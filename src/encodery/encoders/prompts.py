"""Prompts by name. A prompt is a text that is put before every text encoded under its name."""

from __future__ import annotations

from collections.abc import Mapping

from encodery.base.errors import InputError, nearest


def find_prompt(prompts: Mapping[str, str], name: str | None) -> str:
    """The prompt of that name, empty for None. Raises `InputError` with the nearest name."""
    if name is None:
        return ""
    if name not in prompts:
        known = ", ".join(prompts) or "none"
        raise InputError(f"The model has no prompt '{name}'.{nearest(name, prompts)} Known: {known}.")
    return prompts[name]
