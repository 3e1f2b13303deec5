"""All exceptions that encodery raises on purpose.

EncoderyError
├── UserError            caused by the input, the settings or the machine; shown without a traceback
│   ├── SettingsError    a setting does not exist, or its value is not allowed
│   ├── UnknownName      no part, recipe or verb has that name
│   ├── InputError       text, files or arguments cannot be used
│   │   └── EmptyInput   the input is empty
│   ├── ArtifactError    a folder is not the expected artifact, or was altered
│   │   └── CheckpointError
│   ├── MissingExtra     an optional package is not installed
│   └── DiskFull         no space is left; everything written before is intact
└── ProgrammerError      caused by the code
    └── ContractError    a part does not fulfil its contract
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EncoderyError(Exception):
    """Root of all exceptions that encodery raises on purpose."""


class UserError(EncoderyError):
    """An error that a user can correct: the message names the value, what is allowed, and where it was given."""


class SettingsError(UserError):
    """A setting does not exist, or its value is not allowed."""


class UnknownName(UserError):
    """No part, recipe or verb has that name."""


class InputError(UserError):
    """Text, files or arguments cannot be used."""


class EmptyInput(InputError):
    """The input is empty."""


class ArtifactError(UserError):
    """A folder is not the expected artifact, is incomplete, or was altered."""


class CheckpointError(ArtifactError):
    """There is no usable checkpoint, or it does not belong to this run."""


class MissingExtra(UserError):
    """An optional package is not installed; the message contains the pip command that installs it."""


class DiskFull(UserError):
    """No space is left on the device; everything finished before is intact."""


class ProgrammerError(EncoderyError):
    """A bug in the code, never the user's mistake."""


class ContractError(ProgrammerError):
    """A part does not fulfil its contract."""


def nearest(value: str, allowed: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the closest of the allowed names, or an empty string if none is close.

    A dotted name is also matched by its last component.
    """
    names = list(allowed)
    match = difflib.get_close_matches(value, names, n=1, cutoff=0.6)
    if not match:
        tail = {name.rsplit(".", 1)[-1]: name for name in names}
        match = [tail[m] for m in difflib.get_close_matches(value, list(tail), n=1, cutoff=0.6)]
    return f" Did you mean '{match[0]}'?" if match else ""
