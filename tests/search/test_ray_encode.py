"""Shards encoded by Ray Data: the same bytes as without it, resumed by either, and workers that die are replaced."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encodery.base import machine
from encodery.base.errors import InputError
from encodery.search.encode import EncodeSettings, encode_documents
from encodery.search.load_retrievers import load_retriever
from encodery.search.passages import Passages
from encodery.search.ray_encode import RayWorkers, Worker, encode_on_ray

SETTINGS = EncodeSettings(passages=Passages(size=40))
BY_RAY = """
import sys
from pathlib import Path
from encodery.base.errors import UserError
from encodery.search.encode import EncodeSettings
from encodery.search.passages import Passages
from encodery.search.ray_encode import RayWorkers, encode_on_ray

source, out, model, shards = sys.argv[1:]
settings = EncodeSettings(passages=Passages(size=40))
try:
    made = encode_on_ray([source], out, [Path(model)], settings, shards=int(shards), workers=RayWorkers(2))
    documents = made.artifact.manifest.metrics["documents"] if made.artifact else ""
    print(*made.finished, "|", *made.open, "|", documents)
except UserError as error:
    print("error:", error)
"""


@pytest.fixture
def model(tmp_path: Path, word_tokenizer: Callable[..., Any], small_model: Callable[..., Path], rows: Path) -> Path:
    words = sorted({word.strip('".,:{}').lower() for word in rows.read_text().split()})
    return small_model(tmp_path / "run", word_tokenizer(words, lower=True), max_length=64)


def files(folder: Path) -> dict[str, bytes]:
    """Path -> contents, of all that is made of the documents."""
    shards = folder / "shards"
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(shards.rglob("*")) if file.is_file()}


def test_a_worker_ends_a_shard_and_tells_what_is_wrong(rows: Path, tmp_path: Path, model: Path) -> None:
    inputs = ([str(rows)], str(tmp_path / "out"), [model], SETTINGS, 2, None)
    worker = Worker(os.getcwd(), inputs)
    first = worker({"shard": 1})
    assert (first["state"], first["error"], first["passages"] > 0) == ("ended", "", True)
    assert worker({"shard": 1}) == {"shard": 1, "state": "done", "passages": 0, "error": ""}
    other = Worker(os.getcwd(), (*inputs[:4], 3, None))({"shard": 1})
    assert "other shards" in other["error"]
    rest = encode_documents([rows], tmp_path / "out", load_retriever(model), SETTINGS, 2, model_path={"dense": model})
    assert rest.finished == (2,)
    with pytest.raises(InputError, match="workers = 0"):
        encode_on_ray([rows], tmp_path / "out", [model], SETTINGS, workers=RayWorkers(0))


def test_options_of_one_engine_are_refused_with_the_other(tmp_path: Path) -> None:
    from encodery.cli.search.encode import command

    for options, message in (
        ({"engine": "rai"}, "must be local or ray"),
        ({"workers": 2}, "require --engine ray"),
        ({"engine": "ray", "shard": 1}, "requires --engine local"),
    ):
        with pytest.raises(InputError, match=message):
            command([str(tmp_path)], [tmp_path], tmp_path / "out", **options)


def by_ray(*arguments: Any) -> subprocess.Popen[str]:
    room = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", BY_RAY, *map(str, arguments)]
    return subprocess.Popen(command, env={**room, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `ray` is not installed")
def test_the_bytes_are_those_of_the_local_engine(
    rows: Path, tmp_path: Path, model: Path, descendants: Callable[[int], dict[int, bytes]]
) -> None:
    lines = rows.read_text().splitlines()
    with rows.open("w", encoding="utf-8") as file:
        for copy in range(60):
            file.writelines(line.replace('"id": "doc', f'"id": "r{copy}doc') + "\n" for line in lines)
    out, whole = tmp_path / "out", tmp_path / "whole"
    machine.set_threads(1)  # As each worker has: sums in another order round otherwise.
    local = encode_documents([rows], whole, load_retriever(model), SETTINGS, 4, model_path={"dense": model})
    assert local.artifact is not None
    encode_documents([rows], out, load_retriever(model), SETTINGS, 4, shard=2, model_path={"dense": model})
    kept = {file: (out / file).stat().st_mtime_ns for file in files(out)}
    with by_ray(rows, out, model, 4) as process:
        killed = False
        while process.poll() is None and not killed:  # One of the workers, as soon as it has written a part.
            started = [shard for shard in (1, 3, 4) if list((out / "shards" / f"{shard:05d}").glob("*.safetensors"))]
            for pid, command in descendants(process.pid).items() if started else []:
                if b"MapWorker" in command and not killed:
                    os.kill(pid, signal.SIGKILL)
                    killed = True
            time.sleep(0.02)
        message, _ = process.communicate(timeout=600)
    assert killed
    documents = local.artifact.manifest.metrics["documents"]
    assert message.splitlines()[-1] == f"1 3 4 | | {documents}"  # Before it Ray tells of the death.
    assert files(out) == files(whole)
    assert {file: (out / file).stat().st_mtime_ns for file in kept} == kept  # What was done is not done again.
    with by_ray(rows, out, model, 3) as process:
        assert "other shards" in process.communicate(timeout=600)[0]
    machine.set_threads(machine.threads())
