"""Contract of execution strategies: every check of `encodery.checks.execution` on every part in the folder."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch

from encodery import checks
from encodery.base.parts import find_part, part_names
from encodery.checks import execution
from encodery.train.execution import Execution, compiled, cuda_graphs
from encodery.train.execution._graph import CompiledTerms
from encodery.train.job import Job


@pytest.mark.parametrize("check", checks.functions(execution), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Execution))
def test_contract(
    name: str, check: checks.Check, run_check: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (compiled, cuda_graphs):
        monkeypatch.setattr(module, "CompiledTerms", functools.partial(_without_mode, backend="eager"))
    run_check(check, find_part(Execution, name)())


def _without_mode(job: Job, cuda_graphs: bool = False, backend: str = "eager") -> CompiledTerms:
    """Compiled terms on a CPU, which cannot record kernels."""
    torch._dynamo.reset()
    return CompiledTerms(job, backend=backend)
