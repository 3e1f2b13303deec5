"""Contract of the corpus steps: the tests run over all parts in the folders."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters.base_filter import BaseFilter

from encodery.base.parts import Part, find_part, name_of, part_names, part_summary
from encodery.base.settings import decode, encode
from encodery.corpus.sources import SourceFile
from encodery.corpus.steps.dedup import Dedup
from encodery.corpus.steps.filter import Filter
from encodery.corpus.steps.read import FileReader, ReadContext
from encodery.corpus.steps.rewrite import Rewrite

CONTRACTS: tuple[type[Part], ...] = (FileReader, Rewrite, Filter, Dedup)
ALL = [(contract, name) for contract in CONTRACTS for name in part_names(contract)]
PROSE = (
    "The library keeps a list of open files and closes each of them when the program ends.\n"
    "Callers that want a file to stay open must say so, because a file that is forgotten is a file that leaks.\n\n"
    "Each entry of that list holds the name of the file, the mode in which it was opened and the number of readers.\n"
    "A second list holds those files that could not be closed, along with the reason that the system gave.\n"
    "Both lists are written to the log at the end, so that nothing is lost without a word about it."
)


def make(contract: type[Part], name: str) -> Any:
    return find_part(contract, name)()


@pytest.mark.parametrize(("contract", "name"), ALL)
def test_a_part_is_a_frozen_dataclass_with_defaults_and_a_summary(contract: type[Part], name: str) -> None:
    part = make(contract, name)
    assert dataclasses.is_dataclass(part)
    assert part.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert name_of(part) == name
    assert part_summary(contract, name)
    assert decode(contract, encode(part)) == part  # type: ignore[type-abstract]


@pytest.mark.parametrize("name", part_names(Filter))
def test_a_filter_keeps_prose_and_drops_noise_or_fragments(name: str) -> None:
    step = make(Filter, name).build()
    assert isinstance(step, BaseFilter)
    assert step.filter(Document(text=PROSE, id="0")) is True
    verdicts = [step.filter(Document(text=text, id="1")) for text in ("# 1 2 # 3\n" * 40, "x")]
    drops = [verdict for verdict in verdicts if isinstance(verdict, tuple)]
    assert drops
    assert all(keep is False and reason for keep, reason in drops)


@pytest.mark.parametrize("name", part_names(Filter))
@pytest.mark.parametrize("text", ["", " \n ", "!?", "x", "\ud83d", "́", "字"])
def test_a_filter_accepts_unusual_texts(name: str, text: str) -> None:
    verdict = make(Filter, name).build().filter(Document(text=text, id="0"))
    assert verdict is True or (isinstance(verdict, tuple) and verdict[0] is False)


@pytest.mark.parametrize("name", part_names(Rewrite))
def test_a_rewrite_does_not_change_clean_prose_and_is_idempotent(name: str) -> None:
    part = make(Rewrite, name)
    assert part.apply(PROSE) == [PROSE]
    assert isinstance(part.build(name), PipelineStep)
    for text in ("", " ", "\n\n", "́", "字" * 10):
        once = part.apply(text)
        assert [part.apply(piece) for piece in once] == [[piece] for piece in once]


@pytest.mark.parametrize("name", part_names(FileReader))
def test_a_reader_has_its_own_suffixes_and_builds_a_step(name: str, tmp_path: Path) -> None:
    part = make(FileReader, name)
    others = {s for other in part_names(FileReader) if other != name for s in find_part(FileReader, other).suffixes}
    assert part.suffixes
    assert not others.intersection(part.suffixes)
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in part.suffixes)
    context = ReadContext("auto", "auto", None, tmp_path, tmp_path)
    assert isinstance(part.build(name, context), PipelineStep)


@pytest.mark.parametrize("name", part_names(FileReader))
def test_a_reader_refuses_binary_data(name: str, tmp_path: Path) -> None:
    from encodery.corpus.encoding import UnusableFile

    path = tmp_path / "noise"
    path.write_bytes(bytes(range(256)) * 100)
    source = SourceFile(str(path), "noise", "noise", name, "", 25_600, 0)
    with pytest.raises(UnusableFile) as caught:
        list(
            make(FileReader, name).read(source, lambda *_: None, ReadContext("auto", "auto", None, tmp_path, tmp_path))
        )
    assert caught.value.reason in ("binary", "corrupt")


@pytest.mark.parametrize("name", part_names(Dedup))
def test_a_dedup_returns_passes_and_a_step(name: str, tmp_path: Path) -> None:
    part = make(Dedup, name)
    passes = part.passes(str(tmp_path))
    assert passes
    assert passes[0].documents
    assert len({one.name for one in passes}) == len(passes)
    assert all(isinstance(step, PipelineStep) for one in passes for step in one.steps)
    assert isinstance(part.build(str(tmp_path)), PipelineStep)
