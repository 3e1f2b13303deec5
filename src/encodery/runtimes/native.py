"""The compiled engine (`src/native/`) through its C interface; building it needs nothing of Python.

The structures here repeat those of `src/native/engine.cpp`, field by field. Shapes: T tokens, B sequences, H width.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encodery.base.errors import SettingsError

LIBRARY = Path(__file__).with_name("_engine.so")
INTERFACE_VERSION = 3
HIDDEN, MEAN, FIRST = 0, 1, 2
INT8, FP32 = 0, 1
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int
SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "encodery_interface": (_INT, ()),
    "encodery_kernels": (ctypes.c_char_p, (ctypes.c_char_p,)),
    "encodery_peak": (ctypes.c_double, (ctypes.c_char_p, ctypes.c_long, _INT)),
    "encodery_new": (_POINTER, (_POINTER, _POINTER, _INT, ctypes.c_char_p)),
    "encodery_free": (None, (_POINTER,)),
    "encodery_run": (_INT, (_POINTER, _POINTER, _POINTER, _POINTER, _INT, _INT, _INT, _POINTER)),
}
"""The functions of the library: what each returns, and its arguments."""


def _fields(names: str, kind: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((name, kind) for name in names.split())


class LayerSpec(ctypes.Structure):
    """One layer. Weights and rotary angles are addresses of float32, 0 for what a layer does not have; angles are not
    copied."""

    _fields_ = (
        *_fields("qkv qkv_bias out out_bias up up_bias down down_bias", _POINTER),
        *_fields("attention_gain attention_bias ffn_gain ffn_bias cosines sines", _POINTER),
        *_fields("attention_eps ffn_eps", ctypes.c_float),
        *_fields("heads head_size intermediate_size gated activation pre_norm window", ctypes.c_int32),
    )


class EncoderSpec(ctypes.Structure):
    """The rest of an encoder; the embeddings of tokens (V, H), positions (P, H) and segments (S, H) are not copied."""

    _fields_ = (
        *_fields("token_embeddings position_embeddings segment_embeddings", _POINTER),
        *_fields("norm_gain norm_bias final_gain final_bias", _POINTER),
        *_fields("norm_eps final_eps", ctypes.c_float),
        *_fields("width number_format", ctypes.c_int32),
    )


@functools.cache
def library() -> ctypes.CDLL:
    """Load the compiled engine. Raises `SettingsError` that says how to get it if it is missing."""
    if not LIBRARY.is_file():
        machine = platform.machine()
        if machine.lower() not in ("x86_64", "amd64"):
            raise SettingsError(f"The packed engine runs on x86-64 only, this is {machine}. Use the runtime 'torch'.")
        raise SettingsError(
            "The packed engine was not compiled at install, because there was no C++ compiler. Install one (g++ or "
            "clang++) and install encodery again from source, or use the runtime 'torch'."
        )
    loaded = ctypes.CDLL(str(LIBRARY))
    if loaded.encodery_interface() != INTERFACE_VERSION:
        raise SettingsError(f"{LIBRARY}: was compiled from another version. Install encodery again from source.")
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def kernels(name: str) -> str:
    """Return the name of the kernels that are used for `name`; "" stands for the best ones of this processor.

    Raises `SettingsError` if this processor cannot run them.
    """
    chosen = library().encodery_kernels(name.encode())
    if chosen is None:
        raise SettingsError(f"kernels = '{name}': this processor, or this build, does not have them.")
    return str(chosen.decode())


def peak_throughput(name: str = "", rounds: int = 50_000_000, number_format: int = INT8) -> float:
    """Return the multiplications and additions per second that one thread reaches with nothing else to do."""
    return float(library().encodery_peak(kernels(name).encode(), rounds, number_format))


class NativeEncoder:
    """An encoder in the compiled engine. `arrays` keeps alive what `spec` points at. Raises `MemoryError`."""

    def __init__(self, spec: EncoderSpec, layers: Sequence[LayerSpec], name: str, arrays: list[np.ndarray]) -> None:
        self.arrays, self.width = arrays, spec.width
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
        """Run a batch of contiguous int32 arrays that the caller has checked against the model's limits.

        `pooling`: `HIDDEN` returns (T, H) float32, `MEAN` and `FIRST` return (B, H). Raises `MemoryError`.
        """
        sequences = len(cu_seqlens) - 1
        out = np.empty((len(ids) if pooling == HIDDEN else sequences, self.width), np.float32)
        inputs = (array if array is None else array.ctypes.data for array in (ids, cu_seqlens, segment))
        failed = self._library.encodery_run(self._handle, *inputs, sequences, pooling, threads, out.ctypes.data)
        if failed:
            raise MemoryError(f"A batch of {len(ids)} tokens does not fit into memory.")
        return out
