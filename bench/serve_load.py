"""Generate load on a server of /v1/embeddings from one process that uses little CPU time itself.

The generator shares the machine with the server that it measures, so it writes HTTP directly to the streams of asyncio.
Request bodies are prepared before the clock starts.
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
TIMEOUT = 180.0  # Seconds until a request without a reply fails.
NUM_ABORT_KINDS = 4  # The ways in which a client disconnects.


@dataclass(frozen=True)
class Request:
    """A prepared HTTP request. `texts`: the indices of its texts; `body`: the bytes that are sent."""

    texts: tuple[int, ...]
    body: bytes


@dataclass(frozen=True)
class HttpReply:
    """An HTTP reply. `status` is 0 if the connection failed."""

    status: int
    headers: dict[str, str]
    content: bytes


def post_request(path: str, table: object) -> bytes:
    """Return a POST request with a JSON body as bytes."""
    content = orjson.dumps(table)
    return HEAD.format(path=path, size=len(content)).encode() + content


def requests(texts: list[str], count: int, seed: int, path: str = "/v1/embeddings") -> list[Request]:
    """Return `count` random requests of 1, 8 or 32 texts."""
    rng = random.Random(seed)
    results = []
    for _ in range(count):
        indices = tuple(rng.choices(range(len(texts)), k=rng.choices(SIZES, WEIGHTS)[0]))
        results.append(Request(indices, post_request(path, {"input": [texts[n] for n in indices], "model": "m"})))
    return results


class Connections:
    """A pool of connections that are kept alive between requests."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def __aenter__(self) -> Connections:
        return self

    async def __aexit__(self, *_: object) -> None:
        for _reader, writer in self._free:
            writer.close()

    async def send(self, body: bytes) -> HttpReply:
        """Send a request and return the reply, with status 0 if there is none."""
        while self._free:
            pair = self._free.pop()
            if not pair[0].at_eof():
                results = await self._over(pair, body)
                if results.status:
                    return results
            pair[1].close()  # The server closed it while it was idle.
        try:
            pair = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 24)
        except OSError:
            return HttpReply(0, {}, b"")
        return await self._over(pair, body)

    async def _over(self, pair: tuple[asyncio.StreamReader, asyncio.StreamWriter], body: bytes) -> HttpReply:
        reader, writer = pair
        try:
            async with asyncio.timeout(TIMEOUT):
                writer.write(body)
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
                content = await reader.readexactly(int(headers["content-length"]))
        except (OSError, EOFError, TimeoutError, KeyError, asyncio.IncompleteReadError):
            writer.close()
            return HttpReply(0, {}, b"")
        if headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._free.append(pair)
        return HttpReply(int(head[0].split()[1]), headers, content)


async def saturation(port: int, queries: list[Request], warmup: float, seconds: float, clients: int) -> float:
    """Return the texts per second of clients that send the next request as soon as they have a reply.

    The clock starts after `warmup` seconds. A client that gets status 429 retries after a second. Raises `SystemExit`
    at any other error status.
    """
    done, start = 0, time.monotonic() + warmup
    end = start + seconds

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
            if start <= time.monotonic() <= end:
                done += len(one.texts)
            number += clients

    async with Connections(port) as wire:
        await asyncio.gather(*(client(wire, first) for first in range(clients)))
    return done / seconds


@dataclass
class LoadResult:
    """The result of an open loop: latencies in ms, of requests of one text and of all, and status -> count."""

    single_ms: list[float] = field(default_factory=list)
    all_ms: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)


def arrivals(rate: float, seconds: float, rng: random.Random) -> Iterator[float]:
    """Yield the times of a Poisson process of `rate` texts per second."""
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
    on_reply: Callable[[Request, HttpReply], None] | None = None,
) -> LoadResult:
    """Send requests at the times of a Poisson process; a latency counts from the time a request was due."""
    results, rng = LoadResult(), random.Random(seed)

    async def one(wire: Connections, due: float, request: Request) -> None:
        reply = await wire.send(request.body)
        results.statuses[reply.status] = results.statuses.get(reply.status, 0) + 1
        if reply.status == 200:
            results.all_ms.append(1000 * (time.monotonic() - due))
            if len(request.texts) == 1:
                results.single_ms.append(results.all_ms[-1])
        if on_reply is not None:
            on_reply(request, reply)

    async with Connections(port) as wire, asyncio.TaskGroup() as group:
        start = time.monotonic()
        for number, at in enumerate(arrivals(rate, seconds, rng)):
            await asyncio.sleep(max(start + at - time.monotonic(), 0))
            group.create_task(one(wire, start + at, queries[number % len(queries)]))
    return results


async def probe(port: int, body: bytes) -> tuple[int, float]:
    """Return the status and the milliseconds of one request on a new connection."""
    start = time.monotonic()
    async with Connections(port) as wire:
        reply = await wire.send(body)
    return reply.status, 1000 * (time.monotonic() - start)


async def aborts(port: int, queries: list[Request], count: int, seed: int, at_once: int = 32) -> int:
    """Send `count` requests whose clients disconnect, and return how many could not connect.

    A client disconnects before it has sent the body, immediately after it, a little later, or with a reset.
    """
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
            kind = rng.randrange(NUM_ABORT_KINDS)
            writer.write(body[: len(body) // 2] if kind == 0 else body)
            await asyncio.sleep(0 if kind == 1 else 0.02 * rng.random())
            if kind == NUM_ABORT_KINDS - 1:
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()

    await asyncio.gather(*(client() for _ in range(at_once)))
    return failed


def process_tree(pid: int) -> list[int]:
    """Return the ids of a process and all its descendants."""
    try:
        listed = Path(f"/proc/{pid}/task").iterdir()
        children = [int(one) for task in listed for one in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(one for child in children for one in process_tree(child))]


def resident(pid: int) -> float:
    """Return the resident memory of a process and its descendants in megabytes."""
    pages = 0
    for one in process_tree(pid):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pages * 4096 / 1e6
