"""Serving vectors over HTTP on loopback: encodery against a plain server of sentence-transformers, and infinity-emb.

    python bench/serve.py TEXTS [--model FOLDER] [--seconds 20] [--rounds 3] [--infinity PYTHON] [--runtime packed_int8]

Every server has the same weights and answers OpenAI's /v1/embeddings; requests are of 1 text (most), 8 or 32, of mixed
length. Saturation: 64 clients that ask again as soon as they are answered, texts a second. Then an open loop: requests
come at times of a Poisson process at 50 % and 80 % of the *least* saturation of all, so that all bear the same load; a
latency counts from when the request was due, not from when it could be sent. Servers take turns, each alone. The load
generator takes its share of the processor, equally for all. The least cosine to the first server's vectors is reported,
and a server below 0.999 is left out, or below 0.99 where its runtime is of 8 bits. infinity-emb wants a Python of its
own (`--infinity`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import encode

SIZES, WEIGHTS = (1, 8, 32), (0.8, 0.15, 0.05)
CLIENTS = 64
AGREE, AGREE_INT8 = 0.999, 0.99
PLAIN = """
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


def commands(model: str, runtimes: list[str], infinity: str | None, folder: Path) -> dict[str, Command]:
    """Each server's command line, given its port; the peer is first."""
    plain = folder / "plain.py"
    plain.write_text(PLAIN, encoding="utf-8")
    found: dict[str, Command] = {
        "fastapi + sentence-transformers": lambda port: [sys.executable, str(plain), model, str(port)]
    }
    if infinity is not None:
        found["infinity-emb"] = lambda port: [
            infinity, "-m", "infinity_emb.infinity_server", "v2", "--model-id", model, "--served-model-name", "m",
            "--device", "cpu", "--url-prefix", "/v1", "--port", str(port),
        ]  # fmt: skip
    for runtime in runtimes:
        found[f"encodery {runtime}"] = lambda port, runtime=runtime: [
            sys.executable, "-m", "encodery", "serve", f"m={model}", "--port", str(port), "--runtime", runtime,
            "--truncate", "right",
        ]  # fmt: skip
    return found


@contextmanager
def serving(command: Command) -> Iterator[str]:
    """A server that answers; its address."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = int(place.getsockname()[1])
    process = subprocess.Popen(command(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url, end = f"http://127.0.0.1:{port}/v1/embeddings", time.monotonic() + 180
    try:
        while True:
            try:
                if httpx.post(url, json=_body(["ready"]), timeout=60, trust_env=False).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.5)
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"This does not serve: {' '.join(command(port))}")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _body(texts: list[str]) -> dict[str, Any]:
    return {"input": texts, "model": "m"}


def requests(texts: list[str], seed: int) -> Iterator[list[str]]:
    """Requests without end."""
    rng = random.Random(seed)
    while True:
        yield rng.choices(texts, k=rng.choices(SIZES, WEIGHTS)[0])


async def saturation(url: str, texts: list[str], seconds: float) -> float:
    """Texts a second."""
    done, end = 0, time.monotonic() + seconds

    async def client(session: httpx.AsyncClient, seed: int) -> None:
        nonlocal done
        for some in requests(texts, seed):
            response = await session.post(url, json=_body(some))
            response.raise_for_status()
            if time.monotonic() > end:
                return
            done += len(some)

    limits = httpx.Limits(max_connections=CLIENTS, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(limits=limits, timeout=120, trust_env=False) as session:
        await asyncio.gather(*(client(session, seed) for seed in range(CLIENTS)))
    return done / seconds


async def open_loop(url: str, texts: list[str], rate: float, seconds: float, seed: int) -> tuple[list[float], int]:
    """Latencies in milliseconds of requests of one text, and how many requests failed, at `rate` texts a second."""
    rng, found, failed = random.Random(seed), [], 0
    mean = sum(size * weight for size, weight in zip(SIZES, WEIGHTS, strict=True))
    limits = httpx.Limits(max_connections=1024, max_keepalive_connections=1024)
    async with httpx.AsyncClient(limits=limits, timeout=120, trust_env=False) as session:

        async def one(due: float, some: list[str]) -> None:
            nonlocal failed
            response = await session.post(url, json=_body(some))
            if response.status_code != 200:
                failed += 1
            elif len(some) == 1:
                found.append(1000 * (time.monotonic() - due))

        begun, at, tasks = time.monotonic(), 0.0, []
        for some in requests(texts, seed):
            at += rng.expovariate(rate / mean)
            if at > seconds:
                break
            await asyncio.sleep(max(begun + at - time.monotonic(), 0))
            tasks.append(asyncio.create_task(one(begun + at, some)))
        await asyncio.gather(*tasks)
    return found, failed


def vectors(url: str, texts: list[str]) -> np.ndarray:
    """Of some texts, as the server gives them."""
    data = httpx.post(url, json=_body(texts), timeout=120, trust_env=False).raise_for_status().json()["data"]
    return np.array([row["embedding"] for row in sorted(data, key=lambda row: row["index"])])


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--model", required=True, help="a folder of sentence-transformers")
    parser.add_argument("--runtime", nargs="*", default=["torch", "packed_int8"])
    parser.add_argument("--infinity", help="a Python that has infinity-emb")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    texts = encode.sample(given.texts, 1000)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        servers = commands(given.model, given.runtime, given.infinity, Path(folder))
        first: np.ndarray | None = None
        for number in range(given.rounds):
            for name, command in servers.items():
                with serving(command) as url:
                    some = vectors(url, texts[:32])
                    first = some if first is None else first
                    cosines = (first * some).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(some, axis=1)
                    row = found.setdefault(name, {"cosine": float(cosines.min()), "saturation": []})
                    asyncio.run(saturation(url, texts, 3))
                    row["saturation"].append(asyncio.run(saturation(url, texts, given.seconds)))
                    print(f"round {number}: {name}: {row['saturation'][-1]:,.0f} texts/s", flush=True)
        found = {name: row for name, row in found.items() if row["cosine"] >= (AGREE_INT8 if "int8" in name else AGREE)}
        least = min(statistics.median(row["saturation"]) for row in found.values())
        for share in (0.5, 0.8):
            for name in found:
                with serving(servers[name]) as url:
                    asyncio.run(saturation(url, texts, 3))
                    taken, failed = asyncio.run(open_loop(url, texts, share * least, given.seconds, 1))
                p50, p99 = np.percentile(taken, [50, 99])
                told = {"p50_ms": float(p50), "p99_ms": float(p99), "requests": len(taken), "failed": failed}
                found[name][f"at {share:.0%} of {least:.0f} texts/s"] = told
                print(f"{share:.0%}: {name}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, {failed} failed", flush=True)
    peer = statistics.median(next(iter(found.values()))["saturation"])
    for row in found.values():
        row["ratio"] = statistics.median(row["saturation"]) / peer
    if given.out is not None:
        told = {"clients": CLIENTS, "sizes": dict(zip(SIZES, WEIGHTS, strict=True)), "servers": found}
        given.out.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
