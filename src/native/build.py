"""Compiles the packed engine into the package: `python src/native/build.py`. The build hook calls it at install.

Each instruction set has its own file and flags; which one is used is decided at run time.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent / "encodery" / "runtimes" / "_engine.so"
COMMON = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fPIC", "-pthread", "-fvisibility-inlines-hidden"]
SETS = {
    "engine": [],
    "plain": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma"],
}


def build(target: Path = TARGET) -> str | None:
    """Write the library. Return the reason if it cannot be built, else None."""
    if platform.machine().lower() not in ("x86_64", "amd64") or sys.platform == "win32":
        return f"the packed engine runs on x86-64 under Linux or macOS, not {platform.machine()}"
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        return "no C++ compiler was found (c++, g++, clang++, or $CXX)"
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for name, flags in SETS.items():
            objects.append(f"{folder}/{name}.o")
            command = [compiler, *COMMON, *flags, "-c", str(HERE / f"{name}.cpp"), "-o", objects[-1]]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode:
                return f"{' '.join(command)} failed:\n{result.stderr}"
        # in the same folder, so that it can be replaced atomically
        built = target.with_name(f"{target.name}.{os.getpid()}")
        command = [compiler, "-shared", "-pthread", *objects, "-o", str(built)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            return f"{' '.join(command)} failed:\n{result.stderr}"
        built.replace(target)
    return None


if __name__ == "__main__":
    missing = build()
    print(missing or TARGET)
    sys.exit(missing is not None)
