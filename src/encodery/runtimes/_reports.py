"""OpenVINO and NNCF, kept from telling their makers over the network that and how they are used.

Both look at import whether the package that tells is there, and do without where it is not. So it is hidden from them
while they are imported: nothing is sent, and nothing is written into the user's home, as an opt-out by its own means
would do. What others have imported before stays as it is.
"""

from __future__ import annotations

import sys
from types import ModuleType

from encodery.base.extras import require

REPORTS = "openvino_telemetry"


def without_reports(package: str) -> ModuleType:
    """The module "openvino" or "nncf". Raises `MissingExtra`."""
    before = sys.modules.get(REPORTS)
    sys.modules[REPORTS] = None  # type: ignore[assignment]  # Python's own way of saying: not there.
    try:
        return require(package, "openvino")
    finally:
        del sys.modules[REPORTS]
        if before is not None:
            sys.modules[REPORTS] = before
