"""Contract of probes: every check of `encodery.checks.probes` on every part; more of the probe of tags."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from encodery import checks
from encodery.base.errors import InputError
from encodery.base.parts import find_part, part_names
from encodery.checks import probes
from encodery.cli.__main__ import run as encodery
from encodery.evaluate.probes import Probe
from encodery.evaluate.probes.tags import TagProbe, _first_pieces, _states
from encodery.model.init.normal import NormalInit
from encodery.model.load import LoadedModel, load_model
from encodery.model.shape import Batch
from encodery.tokens.tokenizer import Tokenizer

STEMS = ["walk", "talk", "jump", "look", "play", "cook", "rest", "land"]


@pytest.fixture(scope="module")
def tiny(
    tmp_path_factory: pytest.TempPathFactory, word_tokenizer: Callable[..., Tokenizer], small_model: Callable[..., Path]
) -> Path:
    words = [*STEMS, "##ed", "##ing", "##s", "the", "a", ","]
    folder = tmp_path_factory.mktemp("probes")
    return small_model(folder, word_tokenizer(words), vocab_size=64, max_length=32, init=NormalInit(std=0.2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tag of a word depends on the articles of its sentence, which a table of words cannot see."""
    rng, rows = random.Random(0), []
    for _ in range(160):
        words, tags = [], []
        before = rng.choice(["the", "a"])
        for _ in range(5):
            words += [before, rng.choice(STEMS) + rng.choice(["ed", "ing", "s"])]
            tags += ["det", "noun" if before == "the" else "verb"]
        rows.append({"tokens": words, "tags": tags})
    file = tmp_path_factory.mktemp("tags") / "tags.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


DATA = {"tags": "data"}


@pytest.mark.parametrize("check", checks.functions(probes), ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", part_names(Probe))
def test_contract(
    name: str, check: checks.Check, tiny: Path, request: pytest.FixtureRequest, run_check: Callable[..., None]
) -> None:
    run_check(check, find_part(Probe, name)(), request.getfixturevalue(DATA[name]), load_model(tiny))


def test_words_of_a_sentence_are_drawn_together(tiny: Path, data: Path) -> None:
    result = TagProbe(control=False).measure(data, load_model(tiny))
    figure = result.layers[0]
    assert figure.truth is not None
    assert figure.predicted is not None
    assert figure.truth.tolist() == [10] * (result.items // 10)
    assert figure.value == pytest.approx(figure.predicted.sum() / result.items)
    # The articles of a sentence decide its nouns and verbs: the best layer is better on nearly every sentence.
    gain = result.to_dicts()[1 + result.best]
    assert gain["difference_low"] > 0
    assert gain["p"] < 0.01


def test_context_is_found_in_the_layers_and_not_in_the_words(tiny: Path, data: Path) -> None:
    result = TagProbe().measure(data, load_model(tiny))
    words, embeddings = result.baselines["tag of the word"].value, result.layers[0].value
    assert words == pytest.approx(0.75, abs=0.1)
    assert embeddings == pytest.approx(0.75, abs=0.12)
    assert result.layers[result.best].value > 0.9
    assert result.best > 0
    assert result.control[result.best].value < result.layers[result.best].value


def test_states_are_those_of_first_pieces(tiny: Path) -> None:
    loaded = load_model(tiny)
    sentences = [["the", "walking", ",", "jumps"], ["a", "🙂🙂", "looked"]]
    states = _states(loaded, sentences)
    assert states.shape == (3, 7, 32)
    ids, places = _first_pieces(sentences[0], loaded.tokenizer)
    assert [loaded.tokenizer.piece(int(ids[p - 1])) for p in places] == ["the", "walk", ",", "jump"]
    row = [loaded.tokenizer.cls_id, *ids.tolist(), loaded.tokenizer.sep_id]
    with torch.inference_mode():
        layers = loaded.model(Batch.from_sequences([row]), keep_layers=True).layers
    assert layers is not None
    assert np.abs(states[2, :4] - layers[2][torch.from_numpy(places)].numpy()).max() < 1e-5


def test_sentences_that_do_not_fit_are_refused(tiny: Path, tmp_path: Path) -> None:
    loaded: LoadedModel = load_model(tiny)
    file = tmp_path / "x.jsonl"
    rows = [{"tokens": ["the"] * n, "tags": ["a"] * n} for n in (3, 60)] * 5
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="has 60 tokens; the model accepts 30"):
        TagProbe().measure(file, loaded)
    file.write_text('{"tokens": ["a", "b"], "tags": ["x"]}\n' * 10)
    with pytest.raises(InputError, match="a list of as many tags"):
        TagProbe().measure(file, loaded)


def test_the_command(tiny: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        encodery(
            ["evaluate", "probe", "tags", str(data), "max_train_words=300", "max_test_words=100", "--model", str(tiny)]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "layer 2" in shown
    assert "vs the tag of the word" in shown
    assert "best layers" not in shown
    assert "selectivity" in shown
    other = tiny.parent / "other"
    shutil.copytree(tiny, other)
    twice = ["-m", str(tiny), "-m", str(other)]
    assert encodery(["evaluate", "probe", "tags", str(data), "control=false", *twice]) == 0
    shown = capsys.readouterr().out
    assert "best layers" in shown
    assert "other, layer 2" in shown
    assert "1.000" in shown
    assert encodery(["evaluate", "probe", "tags", str(data), "control=false", *twice, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert "selectivity" not in table[str(tiny)]["layers"][1]
    assert table[str(other)]["best"]["p"] == 1
    assert encodery(["evaluate", "probe", "tag", str(data), "-m", str(tiny)]) == 2
    assert "Did you mean 'tags'" in capsys.readouterr().err
