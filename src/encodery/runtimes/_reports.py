"""OpenVINO, kept from telling its makers over the network that and how it is used.

Its tools look at import whether the package that tells is there, and do without where it is not. So it is hidden from
them while they are imported: nothing is sent, and nothing is written into the user's home, as an opt-out by its own
means would do. What others have imported before stays as it is.
"""

from __future__ import annotations

import sys
from types import ModuleType

from encodery.base.extras import require

REPORTS = "openvino_telemetry"


def without_reports() -> ModuleType:
    """The module `openvino`. Raises `MissingExtra`."""
    before = sys.modules.get(REPORTS)
    sys.modules[REPORTS] = None  # type: ignore[assignment]  # Python's own way of saying: not there.
    try:
        return require("openvino", "openvino")
    finally:
        del sys.modules[REPORTS]
        if before is not None:
            sys.modules[REPORTS] = before
