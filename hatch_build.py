"""Build hook: the packed engine is compiled into the package where it can be. Without it the install goes on."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg, misc]
    """Compiles before a wheel is put together, editable or not."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        native = Path(self.root) / "src" / "native" / "build.py"
        missing = runpy.run_path(str(native))["build"]()
        if missing is not None:
            self.app.display_warning(f"The runtimes 'packed_fp32' and 'packed_int8' will not be there: {missing}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
