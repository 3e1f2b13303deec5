"""Every exception of the house, drawn once.

EncoderyError
├── UserError            the input, the settings or the machine's state is at fault; shown without a traceback
│   ├── SettingsError    a setting that does not exist, or a value it cannot take
│   ├── UnknownName      no part, recipe or verb of that name
│   ├── InputError       text, files or arguments that cannot be used
│   │   └── EmptyInput   nothing to work on
│   ├── ArtifactError    a folder that is not what it should be, or was altered
│   │   └── CheckpointError
│   ├── MissingExtra     an optional package is not installed
│   └── DiskFull         no space left; what was written before is whole
└── ProgrammerError      the code is at fault
    └── ContractError    a part that does not fulfil its contract
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EncoderyError(Exception):
    """Root of everything encodery raises on purpose."""


class UserError(EncoderyError):
    """What a user can mend: the message names the value given, what is allowed, and where."""


class SettingsError(UserError):
    """A setting that does not exist, or a value it cannot take."""


class UnknownName(UserError):
    """No part, recipe or verb has that name."""


class InputError(UserError):
    """Text, files or arguments that cannot be used."""


class EmptyInput(InputError):
    """There is nothing to work on."""


class ArtifactError(UserError):
    """A folder is not the artifact it should be, is incomplete, or was altered."""


class CheckpointError(ArtifactError):
    """No usable checkpoint, or one that does not belong to this run."""


class MissingExtra(UserError):
    """An optional package is not installed; the message holds the pip line."""


class DiskFull(UserError):
    """No space is left on the device; whatever was finished before is intact."""


class ProgrammerError(EncoderyError):
    """A fault of the code, never of the user."""


class ContractError(ProgrammerError):
    """A part that does not fulfil its contract."""


def nearest(value: str, allowed: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the closest of `allowed`, or an empty string when none is close."""
    names = list(allowed)
    match = difflib.get_close_matches(value, names, n=1, cutoff=0.6)
    if not match:
        tail = {name.rsplit(".", 1)[-1]: name for name in names}
        match = [tail[m] for m in difflib.get_close_matches(value, list(tail), n=1, cutoff=0.6)]
    return f" Did you mean '{match[0]}'?" if match else ""
