"""A checkpoint format outside the package: checked, imported, exported and used through its dotted path."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from encodery import checks
from encodery.base.errors import ArtifactError
from encodery.base.parts import find_part
from encodery.checks import formats
from encodery.checks.formats import SPECIAL, random_model
from encodery.cli.__main__ import run
from encodery.model.checkpoint import write_tensors
from encodery.model.conversion import to_checkpoint
from encodery.model.formats import CheckpointFormat
from encodery.model.load import load_model

SOURCE = '''
"""The format of Acme: tensors and sizes of DistilBERT under another model_type."""

from dataclasses import dataclass

from encodery.model.formats import distilbert


@dataclass(frozen=True, kw_only=True)
class AcmeFormat(distilbert.DistilBertFormat):
    def matches(self, config):
        return config.get("model_type") == "acme"

    def write_config(self, settings, special):
        return super().write_config(settings, special) | {"model_type": "acme"}
'''


@pytest.fixture
def own_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointFormat:
    (tmp_path / "acme_corp").mkdir()
    (tmp_path / "acme_corp" / "__init__.py").touch()
    (tmp_path / "acme_corp" / "formats.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("acme_corp", "acme_corp.formats"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return find_part(CheckpointFormat, "acme_corp.formats")()


def test_a_format_outside_the_package(own_format: CheckpointFormat, tmp_path: Path) -> None:
    checks.run(formats, own_format)
    model = random_model(own_format.example())
    config = own_format.write_config(model.settings, SPECIAL)
    folder = tmp_path / "theirs"
    folder.mkdir()
    write_tensors(folder / "model.safetensors", to_checkpoint(own_format, config, model, None))
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match=r"'acme' is not a known checkpoint format.*--format my_project\.my_format"):
        load_model(folder)
    assert run(["model", "import", str(folder), "--out", str(tmp_path / "ours"), "--format", "acme_corp.formats"]) == 0
    loaded = load_model(tmp_path / "ours")
    assert all(torch.equal(loaded.model.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    command = ["model", "export", str(tmp_path / "ours"), "--format", "hf", "--out", str(tmp_path / "back")]
    assert run([*command, "checkpoint_format=acme_corp.formats", "verify_with_peer=false"]) == 0
    assert (tmp_path / "back/model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_an_unknown_format_is_refused_with_the_nearest(
    own_format: CheckpointFormat, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text("{}")
    assert run(["model", "import", str(tmp_path / "theirs"), "--out", str(tmp_path / "x"), "--format", "robert"]) != 0
    assert "Did you mean 'roberta'" in capsys.readouterr().err
