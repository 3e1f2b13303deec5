"""Load on a server of /v1/embeddings, from one process that takes little of the processor itself.

HTTP is written by hand over asyncio's streams, since the generator shares the machine with the server it measures.
Bodies are made before the clock runs.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson

SIZES, WEIGHTS = (1, 8, 32), (0.8, 0.15, 0.05)
MEAN = sum(size * weight for size, weight in zip(SIZES, WEIGHTS, strict=True))
HEAD = "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
PATIENCE = 180.0  # seconds for one answer
KINDS = 4  # of ways to leave


@dataclass(frozen=True)
class Request:
    """`texts`: their numbers; `body`: the whole request as it is sent."""

    texts: tuple[int, ...]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """`status` 0 where the connection broke."""

    status: int
    headers: dict[str, str]
    content: bytes


def written(path: str, table: object) -> bytes:
    """A POST as bytes."""
    content = orjson.dumps(table)
    return HEAD.format(path=path, size=len(content)).encode() + content


def requests(texts: list[str], count: int, seed: int, path: str = "/v1/embeddings") -> list[Request]:
    """So many requests of 1, 8 or 32 texts."""
    rng = random.Random(seed)
    results = []
    for _ in range(count):
        some = tuple(rng.choices(range(len(texts)), k=rng.choices(SIZES, WEIGHTS)[0]))
        results.append(Request(some, written(path, {"input": [texts[n] for n in some], "model": "m"})))
    return results


class Connections:
    """Kept alive between requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Connections:
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self._free:
            writer.close()

    async def send(self, body: bytes) -> Reply:
        """The reply; of status 0 where there is none."""
        while self._free:
            pair = self._free.pop()
            if not pair[0].at_eof():
                results = await self._over(pair, body)
                if results.status:
                    return results
            pair[1].close()  # The server ended it while it stood idle.
        try:
            pair = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        except OSError:
            return Reply(0, {}, b"")
        return await self._over(pair, body)

    async def _over(self, pair: tuple[asyncio.StreamReader, asyncio.StreamWriter], body: bytes) -> Reply:
        reader, writer = pair
        try:
            async with asyncio.timeout(PATIENCE):
                writer.write(body)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                content = await reader.readexactly(int(headers["content-length"]))
        except (OSError, EOFError, TimeoutError, KeyError, asyncio.IncompleteReadError):
            writer.close()
            return Reply(0, {}, b"")
        if headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._free.append(pair)
        return Reply(int(head[0].split()[1]), headers, content)


async def saturation(port: int, queries: list[Request], warm: float, seconds: float, clients: int) -> float:
    """Texts a second of clients that ask again as soon as they are answered, `warm` seconds before the clock runs. A
    client that is told to come later does, in a second. Raises `SystemExit` at any other refusal."""
    done, begin = 0, time.monotonic() + warm
    end = begin + seconds

    async def client(wire: Connections, first: int) -> None:
        nonlocal done
        number = first
        while time.monotonic() < end:
            one = queries[number % len(queries)]
            reply = await wire.send(one.body)
            if reply.status == 429:
                await asyncio.sleep(1)
                continue
            if reply.status != 200:
                raise SystemExit(f"port {port}: {reply.status} {reply.content[:200]!r} while saturated")
            if begin <= time.monotonic() <= end:
                done += len(one.texts)
            number += clients

    async with Connections(port) as wire:
        await asyncio.gather(*(client(wire, first) for first in range(clients)))
    return done / seconds


@dataclass
class Taken:
    """What came of an open loop: latencies of requests of one text in milliseconds, and statuses of all."""

    single_ms: list[float] = field(default_factory=list)
    all_ms: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)


def arrivals(rate: float, seconds: float, rng: random.Random) -> Iterator[float]:
    """Times of a Poisson process of `rate` texts a second."""
    at = rng.expovariate(rate / MEAN)
    while at < seconds:
        yield at
        at += rng.expovariate(rate / MEAN)


async def open_loop(
    port: int,
    queries: list[Request],
    rate: float,
    seconds: float,
    seed: int,
    saw: Callable[[Request, Reply], None] | None = None,
) -> Taken:
    """Requests at times of their own; a latency counts from when the request was due."""
    results, rng = Taken(), random.Random(seed)

    async def one(wire: Connections, due: float, request: Request) -> None:
        reply = await wire.send(request.body)
        results.statuses[reply.status] = results.statuses.get(reply.status, 0) + 1
        if reply.status == 200:
            results.all_ms.append(1000 * (time.monotonic() - due))
            if len(request.texts) == 1:
                results.single_ms.append(results.all_ms[-1])
        if saw is not None:
            saw(request, reply)

    async with Connections(port) as wire, asyncio.TaskGroup() as group:
        begun = time.monotonic()
        for number, at in enumerate(arrivals(rate, seconds, rng)):
            await asyncio.sleep(max(begun + at - time.monotonic(), 0))
            group.create_task(one(wire, begun + at, queries[number % len(queries)]))
    return results


async def probe(port: int, body: bytes) -> tuple[int, float]:
    """Status and milliseconds of one request on a connection of its own."""
    begun = time.monotonic()
    async with Connections(port) as wire:
        reply = await wire.send(body)
    return reply.status, 1000 * (time.monotonic() - begun)


async def aborts(port: int, queries: list[Request], count: int, seed: int, at_once: int = 32) -> int:
    """So many requests whose clients leave: before the body is there, at once, a little later, or by a reset; how many
    found no place to connect to."""
    rng, failed, left = random.Random(seed), 0, iter(range(count))

    async def client() -> None:
        nonlocal failed
        for number in left:
            body = queries[number % len(queries)].body
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                failed += 1
                continue
            kind = rng.randrange(KINDS)
            writer.write(body[: len(body) // 2] if kind == 0 else body)
            await asyncio.sleep(0 if kind == 1 else 0.02 * rng.random())
            if kind == KINDS - 1:
                place = writer.get_extra_info("socket")
                place.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()

    await asyncio.gather(*(client() for _ in range(at_once)))
    return failed


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    try:
        listed = Path(f"/proc/{pid}/task").iterdir()
        children = [int(one) for task in listed for one in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(one for child in children for one in family(child))]


def resident(pid: int) -> float:
    """Megabytes in memory of a process and its descendants."""
    pages = 0
    for one in family(pid):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pages * 4096 / 1e6
