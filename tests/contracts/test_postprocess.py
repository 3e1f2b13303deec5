"""Contract of post-processing: every check of `encodery.checks.postprocess` on every part in the folder."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from encodery import checks
from encodery.base.errors import SettingsError
from encodery.base.parts import find_part, part_names
from encodery.checks import postprocess
from encodery.encoders.postprocess import PostProcess


@pytest.mark.parametrize("check", checks.functions(postprocess), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(PostProcess))
def test_contract(name: str, check: checks.Check, run_check: Callable[..., None]) -> None:
    run_check(check, find_part(PostProcess, name)())


@pytest.mark.parametrize("name", part_names(PostProcess))
def test_a_step_says_whether_it_is_linear(name: str) -> None:
    part = find_part(PostProcess, name)()
    assert part.is_linear == ("linear" not in part.unsupported)
    if not part.is_linear:
        with pytest.raises(SettingsError, match="is not linear"):
            part.as_linear(part.fit(postprocess.example_vectors()), postprocess.WIDTH)
