"""The settings that the runtimes of the compiled engine share."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal

from encodery.base import machine
from encodery.base.parts import name_of
from encodery.base.settings import check_interval
from encodery.model.network import Model
from encodery.runtimes.kind import Runtime
from encodery.runtimes.packed import PackedEngine, build_packed_engine


@dataclass(frozen=True, kw_only=True)
class PackedRuntime(Runtime):
    """A runtime of the compiled engine; abstract. `threads`: None for as many as the process may use. `kernels`: None
    for the best that the processor has; "plain" is the slow reference that the others are tested against."""

    threads: int | None = None
    kernels: Literal["avx512_vnni", "avx2", "plain"] | None = None

    def __post_init__(self) -> None:
        check_interval(self, "1 <= x <= 1024", "threads")

    @property
    @abc.abstractmethod
    def number_format(self) -> int:
        """What the engine multiplies: `native.INT8` or `native.FP32`."""

    def build(self, model: Model) -> PackedEngine:
        threads = self.threads or machine.threads()
        return build_packed_engine(model, self.number_format, threads, self.kernels or "", name_of(self))
