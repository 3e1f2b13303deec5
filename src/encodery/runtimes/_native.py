"""The door to the compiled engine (`src/native/`), through its C interface: nothing of Python is needed to build it.

The structures here repeat those of `src/native/engine.cpp`, field by field. Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from encodery.base.errors import SettingsError

LIBRARY = Path(__file__).with_name("_engine.so")
INTERFACE_VERSION = 3
HIDDEN, MEAN, FIRST = 0, 1, 2
INT8, FP32 = 0, 1
_FLOATS = ctypes.c_void_p


class LayerSpec(ctypes.Structure):
    """Weights and angles are addresses of float32, 0 for what a layer has not; angles are not copied."""

    _fields_ = (
        *((name, _FLOATS) for name in ("qkv", "qkv_bias", "out", "out_bias", "up", "up_bias", "down", "down_bias")),
        *((name, _FLOATS) for name in ("attention_gain", "attention_bias", "ffn_gain", "ffn_bias")),
        *((name, _FLOATS) for name in ("cosines", "sines")),
        *((name, ctypes.c_float) for name in ("attention_eps", "ffn_eps")),
        *((name, ctypes.c_int32) for name in ("heads", "head_size", "inner", "gated", "activation", "pre", "window")),
    )


class EncoderSpec(ctypes.Structure):
    """The same; the tables of words (V, H), positions (P, H) and segments (S, H) are not copied."""

    _fields_ = (
        *((name, _FLOATS) for name in ("words", "positions", "segments")),
        *((name, _FLOATS) for name in ("norm_gain", "norm_bias", "final_gain", "final_bias")),
        *((name, ctypes.c_float) for name in ("norm_eps", "final_eps")),
        *((name, ctypes.c_int32) for name in ("width", "numbers")),
    )


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled engine. Raises `SettingsError` saying how to get it where it is not there."""
    if not LIBRARY.is_file():
        machine = platform.machine()
        if machine.lower() not in ("x86_64", "amd64"):
            raise SettingsError(f"The packed engine is written for x86-64, this is {machine}. Use the runtime 'torch'.")
        raise SettingsError(
            "The packed engine was not compiled at install, as no C++ compiler was there. Install one (g++ or clang++) "
            "and install encodery again from source, or use the runtime 'torch'."
        )
    loaded = ctypes.CDLL(str(LIBRARY))
    if loaded.encodery_interface() != INTERFACE_VERSION:
        raise SettingsError(f"{LIBRARY}: was compiled from another version. Install encodery again from source.")
    loaded.encodery_kernels.restype = ctypes.c_char_p
    loaded.encodery_kernels.argtypes = [ctypes.c_char_p]
    loaded.encodery_peak.restype = ctypes.c_double
    loaded.encodery_peak.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int]
    loaded.encodery_new.restype = ctypes.c_void_p
    loaded.encodery_new.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p]
    loaded.encodery_free.restype = None
    loaded.encodery_free.argtypes = [ctypes.c_void_p]
    loaded.encodery_run.restype = ctypes.c_int
    loaded.encodery_run.argtypes = [*(ctypes.c_void_p,) * 4, *(ctypes.c_int,) * 3, ctypes.c_void_p]
    return loaded


def kernels(name: str) -> str:
    """The kernels that run under that name, "" standing for the best. Raises `SettingsError` where they cannot."""
    found = library().encodery_kernels(name.encode())
    if found is None:
        raise SettingsError(f"kernels = '{name}': this processor, or this build, has them not.")
    return str(found.decode())


def peak_throughput(name: str = "", rounds: int = 50_000_000, numbers: int = INT8) -> float:
    """Multiplications and additions a second of such numbers that one thread reaches with nothing else to do."""
    return float(library().encodery_peak(kernels(name).encode(), rounds, numbers))


class NativeEncoder:
    """An encoder in the compiled engine. `kept` holds what `spec` points at."""

    def __init__(self, spec: EncoderSpec, layers: Sequence[LayerSpec], name: str, kept: list[np.ndarray]) -> None:
        self.kept, self.width = kept, spec.width
        self.kernels = kernels(name)
        self._library = library()
        table = (LayerSpec * len(layers))(*layers)
        self._handle = self._library.encodery_new(
            ctypes.byref(spec), ctypes.byref(table), len(layers), self.kernels.encode()
        )
        if not self._handle:
            raise MemoryError("The weights do not fit into memory.")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.encodery_free(self._handle)

    def run(
        self, ids: np.ndarray, cu_seqlens: np.ndarray, segment: np.ndarray | None, pooling: int, threads: int
    ) -> np.ndarray:
        """Contiguous int32 within the model's limits, which the caller has checked → (T, H) or (B, H) float32."""
        sequences = len(cu_seqlens) - 1
        out = np.empty((len(ids) if pooling == HIDDEN else sequences, self.width), np.float32)
        where = None if segment is None else segment.ctypes.data
        failed = self._library.encodery_run(
            self._handle, ids.ctypes.data, cu_seqlens.ctypes.data, where, sequences, pooling, threads, out.ctypes.data
        )
        if failed:
            raise MemoryError(f"A batch of {len(ids)} tokens does not fit into memory.")
        return out
