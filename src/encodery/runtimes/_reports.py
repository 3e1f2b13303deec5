"""OpenVINO, kept from telling its makers over the network that and how it is used.

Its tools look at import whether the package that tells is there, and do without where it is not. So it is hidden from
them while they are imported: nothing is sent, and nothing is written into the user's home, as an opt-out by its own
means would do. What others have imported before stays as it is.
"""

from __future__ import annotations

import sys
from types import ModuleType

from encodery.base.extras import require

TELEMETRY_PACKAGE = "openvino_telemetry"


def import_without_telemetry() -> ModuleType:
    """The module `openvino`. Raises `MissingExtra`."""
    before = sys.modules.get(TELEMETRY_PACKAGE)
    sys.modules[TELEMETRY_PACKAGE] = None  # type: ignore[assignment]  # Python's own way of saying: not there.
    try:
        return require("openvino", "openvino")
    finally:
        del sys.modules[TELEMETRY_PACKAGE]
        if before is not None:
            sys.modules[TELEMETRY_PACKAGE] = before
