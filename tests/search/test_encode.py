"""Documents encoded in shards: resumed after a kill, by several workers, and indexed without the model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encodery.base.errors import ArtifactError, InputError
from encodery.search import writer
from encodery.search.build import IndexSettings, build
from encodery.search.encode import EncodeSettings, encode_documents
from encodery.search.encoded_source import EncodedSource, build_encoded
from encodery.search.index import SearchIndex
from encodery.search.passages import Passages
from encodery.search.searcher import Searcher

SETTINGS = EncodeSettings(passages=Passages(size=40))


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PASSAGES_AT_ONCE", 10)


def files(folder: Path) -> dict[str, bytes]:
    """Path -> contents, of all that is made of the documents."""
    shards = folder / "shards"
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(shards.rglob("*")) if file.is_file()}


WORKER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from conftest import FakeEncoder
from encodery.search import writer
from encodery.search.encode import EncodeSettings, encode_documents
from encodery.search.passages import Passages

class Dying(FakeEncoder):
    # Ends its process at the n-th call, in the middle of a part.
    left = int(sys.argv[4])
    def encode(self, texts, truncate="error", **options):
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(texts, truncate, **options)

writer.PASSAGES_AT_ONCE = 10
encode_documents([sys.argv[2]], sys.argv[3], Dying(), EncodeSettings(passages=Passages(size=40)), shards=3)
"""


def test_a_killed_run_resumes_to_the_same_bytes(rows: Path, tmp_path: Path, encoder: Any) -> None:
    whole = encode_documents([rows], tmp_path / "whole", encoder, SETTINGS, shards=3)
    assert whole.finished == (1, 2, 3)
    assert whole.artifact is not None
    deaths = []
    for calls in (1, 2, 4):
        here = str(Path(__file__).parent)
        command = [sys.executable, "-c", WORKER, here, str(rows), str(tmp_path / "killed"), str(calls)]
        deaths.append(subprocess.run(command, timeout=120).returncode)
    assert deaths == [-9, -9, -9]
    kept = files(tmp_path / "killed")
    before = encoder.encoded
    again = encode_documents([rows], tmp_path / "killed", encoder, SETTINGS, shards=3)
    assert again.artifact is not None
    assert again.open == ()
    total = again.artifact.manifest.metrics["passages"]
    assert 0 < encoder.encoded - before < total
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert kept.items() <= files(tmp_path / "whole").items()
    assert again.artifact.manifest.fingerprint == whole.artifact.manifest.fingerprint
    before = encoder.encoded
    assert encode_documents([rows], tmp_path / "killed", encoder, SETTINGS, shards=3).finished == ()
    assert encoder.encoded == before


def test_shards_by_hand_in_any_order(rows: Path, tmp_path: Path, encoder: Any) -> None:
    out = tmp_path / "out"
    first = encode_documents([rows], out, encoder, SETTINGS, shards=3, shard=3)
    assert (first.finished, first.open, first.artifact) == ((3,), (1, 2), None)
    with pytest.raises(ArtifactError, match="shards 1, 2 of 3 are not done"):
        EncodedSource(out)
    encode_documents([rows], out, encoder, SETTINGS, shards=3, shard=1)
    assert encode_documents([rows], out, encoder, SETTINGS, shards=3, shard=2).artifact is not None
    encode_documents([rows], tmp_path / "at-once", encoder, SETTINGS, shards=3)
    assert files(out) == files(tmp_path / "at-once")
    with pytest.raises(InputError, match="must be between 1 and"):
        encode_documents([rows], out, encoder, SETTINGS, shards=3, shard=4)


def test_a_shard_in_work_is_left_to_its_worker(rows: Path, tmp_path: Path, encoder: Any) -> None:
    encode_documents([rows], tmp_path / "out", encoder, SETTINGS, shards=2, shard=2)
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'a+'); fcntl.lockf(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out" / "locks" / "00001")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ArtifactError, match="works on shard 1 of 2"):
            encode_documents([rows], tmp_path / "out", encoder, SETTINGS, shards=2, shard=1)
        assert encode_documents([rows], tmp_path / "out", encoder, SETTINGS, shards=2).open == (1,)
        other.communicate()
    assert encode_documents([rows], tmp_path / "out", encoder, SETTINGS, shards=2).artifact is not None


def test_changed_inputs_are_named_and_refused(rows: Path, tmp_path: Path, encoder: Any, other_encoder: Any) -> None:
    out = tmp_path / "out"
    encode_documents([rows], out, encoder, SETTINGS, shards=2, shard=1)
    with pytest.raises(ArtifactError, match="other model"):
        encode_documents([rows], out, other_encoder, SETTINGS, shards=2)
    with pytest.raises(ArtifactError, match="other settings"):
        encode_documents([rows], out, encoder, EncodeSettings(passages=Passages(size=50)), shards=2)
    with pytest.raises(ArtifactError, match="other shards"):
        encode_documents([rows], out, encoder, SETTINGS, shards=3)
    with rows.open("a", encoding="utf-8") as file:
        file.write('{"id": "late", "text": "one more"}\n')
    with pytest.raises(ArtifactError, match="other input files"):
        encode_documents([rows], out, encoder, SETTINGS, shards=2)


def contents(folder: Path) -> dict[tuple[str, int], Any]:
    with SearchIndex(folder) as index:
        return {(p.document, p.number): p for batch in index.store.scan(vectors=True) for p in batch}


def test_the_index_is_the_one_made_at_once(rows: Path, tmp_path: Path, encoder: Any, other_encoder: Any) -> None:
    with rows.open("a", encoding="utf-8") as file:
        file.write('{"id": "doc3", "text": "the later one of this id", "topic": "none"}\n')
    settings = IndexSettings(passages=SETTINGS.passages)
    build([rows], tmp_path / "direct", encoder, settings)
    encode_documents([rows], tmp_path / "encoded", encoder, SETTINGS, shards=3)
    before = encoder.encoded
    made = build_encoded(tmp_path / "encoded", tmp_path / "index")
    assert encoder.encoded == before
    assert made.artifact.manifest.metrics["documents"] == 36
    assert made.artifact.manifest.metrics["replaced"] == 1
    assert not build_encoded(tmp_path / "encoded", tmp_path / "index").is_new
    one, other = contents(tmp_path / "index"), contents(tmp_path / "direct")
    assert {place: (p.text, p.payload) for place, p in one.items()} == {
        place: (p.text, p.payload) for place, p in other.items()
    }
    with Searcher.open(tmp_path / "index", encoder) as searcher:
        assert searcher.search("violin", top_k=1).hits
        assert searcher.index.weight == pytest.approx(0.2)
    calibrated = build_encoded(tmp_path / "encoded", tmp_path / "weighed", encoder)
    assert calibrated.artifact.manifest.metrics["documents"] == 36
    plain = build_encoded(tmp_path / "encoded", tmp_path / "plain", settings=IndexSettings(postprocess=()))
    for place, point in contents(plain.artifact.path).items():
        np.testing.assert_allclose(point.dense, encoder.vector(one[place].text), rtol=1e-5)
    with pytest.raises(InputError, match="divided already"):
        build_encoded(tmp_path / "encoded", tmp_path / "other", settings=IndexSettings(passages=Passages(size=30)))
    with pytest.raises(ArtifactError, match="dense"):
        build_encoded(tmp_path / "encoded", tmp_path / "other", other_encoder)
