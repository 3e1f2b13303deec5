"""Imports OpenVINO without its telemetry.

When OpenVINO's tools are imported, they look for the package that reports how they are used, and do without it if it is
missing. So it is hidden from them during the import: nothing is sent, and nothing is written into the user's home
folder, as OpenVINO's own opt-out would do. What others have imported before is left alone.
"""

from __future__ import annotations

import sys
from types import ModuleType

from encodery.base.extras import require

TELEMETRY_PACKAGE = "openvino_telemetry"


def import_without_telemetry() -> ModuleType:
    """Return the module `openvino`. Raises `MissingExtra`."""
    before = sys.modules.get(TELEMETRY_PACKAGE)
    sys.modules[TELEMETRY_PACKAGE] = None  # type: ignore[assignment]  # how Python marks a module as absent
    try:
        return require("openvino", "openvino")
    finally:
        del sys.modules[TELEMETRY_PACKAGE]
        if before is not None:
            sys.modules[TELEMETRY_PACKAGE] = before
