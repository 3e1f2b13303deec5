"""The page: what it shows, what it refuses, that nothing becomes markup; over real sockets."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from typer.testing import CliRunner

from encodery.base.errors import InputError
from encodery.search.build import IndexSettings, build
from encodery.search.modes import MAX_QUERY_CHARS
from encodery.search.page import responder as answers_module
from encodery.search.page.form import parse_form, parse_query
from encodery.search.page.responder import PageResponder
from encodery.search.page.server import LONGEST_TARGET, PageServer
from encodery.search.passages import Passages
from encodery.search.searcher import Reranking, Searcher

EVIL = "<script>alert(1)</script> \"quoted\" 'single' & <img src=x onerror=alert(2)> violin"


class Shortest:
    """Prefers short passages."""

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        return -np.array([len(text) for text in texts], np.float64)


class Page(HTMLParser):
    """The elements of a page, in order, and its text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted_attributes = {name.rstrip("_"): value for name, value in attributes.items()}
        return [held for name, held in self.elements if name == tag and wanted_attributes.items() <= held.items()]


@pytest.fixture
def searcher(rows: Path, tmp_path: Path, encoder: Any) -> Iterator[Searcher]:
    evil = {"id": "evil/<b>", "text": EVIL, "title": "<h1>Evil</h1>", "topic": "<i>x</i>"}
    with rows.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(evil) + "\n")
    build([rows], tmp_path / "index", encoder, IndexSettings(passages=Passages(size=40, overlap=6)))
    with Searcher.open(tmp_path / "index", encoder) as searcher:
        yield searcher


@pytest.fixture
def answers(searcher: Searcher) -> Iterator[PageResponder]:
    with PageResponder(searcher, Reranking(Shortest(), 8), "shortest") as answers:
        yield answers


def shown(answers: PageResponder, path: str = "/", status: int = 200, **fields: Any) -> Page:
    reply = answers.reply(f"{path}?{urlencode(fields, doseq=True)}")
    assert reply.status == status, reply.body.decode()
    assert reply.kind.startswith("text/html")
    return Page(reply.body.decode())


def test_an_empty_form_and_a_search(answers: PageResponder) -> None:
    empty = shown(answers)
    assert empty.all("form", action="/", method="get")
    assert not empty.all("li")
    page = shown(answers, q="violin orchestra", rerank="no")
    assert len(page.all("li", class_="hit")) == 10
    assert page.all("input", name="q")[0]["value"] == "violin orchestra"
    assert page.all("mark")
    classes = {held.get("class") for held in page.all("svg")}
    assert classes == {"times", "bar s-bm25", "bar s-dense", "bar s-score"}
    assert re.search(r"10 passages · hybrid · [\d.]+ ms", page.text)
    for stage in ("encode", "bm25", "dense", "fuse", "show"):
        assert re.search(rf"{stage} [\d.]+ ms", page.text)


def test_bars_are_shares_of_the_best(answers: PageResponder, searcher: Searcher) -> None:
    hits = searcher.search("violin orchestra", mode="bm25").hits
    page = shown(answers, q="violin orchestra", mode="bm25", rerank="no")
    assert {held["class"] for held in page.all("svg")} == {"times", "bar s-bm25"}
    after = [at for at, (tag, held) in enumerate(page.elements) if tag == "svg" and held.get("class") == "bar s-bm25"]
    widths = [float(page.elements[at + 2][1]["width"] or 0) for at in after]
    assert widths == pytest.approx([100 * (hit.bm25 or 0) / (hits[0].bm25 or 1) for hit in hits], abs=0.06)


def test_the_reranker_is_used_by_default(answers: PageResponder) -> None:
    page = shown(answers, q="violin", top_k=5)
    assert len(page.all("svg", class_="bar s-rerank")) == 5
    assert page.all("input", name="rerank_weight")[0]["placeholder"] == "0.50"
    texts = [
        [hit["text"] for hit in json.loads(answers.reply(f"/search?q=violin&top_k=5&{share}").body)["hits"]]
        for share in ("rerank=no", "rerank_weight=0", "rerank_weight=1")
    ]
    assert texts[0] == texts[1] != texts[2]
    assert "rerank" not in {held.get("name") for held in shown_without(answers)}


def shown_without(answers: PageResponder) -> list[dict[str, str | None]]:
    with PageResponder(answers.searcher) as plain:
        return shown(plain, q="violin").all("select")


def test_nothing_becomes_markup(answers: PageResponder) -> None:
    attack = '"><script>alert(3)</script> violin alert'
    pages = [
        shown(answers, q=attack, mode="bm25", rerank="no", filter="topic~<i>"),
        shown(answers, "/document", id="evil/<b>", passage="0", q=attack),
        shown(answers, "/document", status=404, id=attack, passage="0"),
        shown(answers, "/nowhere/<script>", status=404),
        shown(answers, status=400, q="x", mode=attack),
    ]
    assert "Evil" in pages[0].text
    for page in pages:
        assert page.all("script") in ([{"src": "/page.js", "defer": ""}], [{"src": "/page.js", "defer": None}])
        assert not page.all("img")
        assert not page.all("i")
        assert not any(name.startswith("on") or name == "style" for _, held in page.elements for name in held)


def test_sides_may_have_a_share_each(answers: PageResponder, searcher: Searcher) -> None:
    query = "violin orchestra pan"
    hits = searcher.search(query, weight={"bm25": 0.25, "dense": 0.75}).hits
    response = json.loads(
        answers.reply(f"/search?{urlencode({'q': query, 'weights': 'bm25=1, dense=3', 'rerank': 'no'})}").body
    )
    assert [hit["score"] for hit in response["hits"]] == pytest.approx([hit.score for hit in hits])
    assert shown(answers, q=query).all("input", name="weight", type="number")
    page = shown(answers, q=query, weights="bm25=1, dense=3")
    assert [held["value"] for held in page.all("input", name="weights", type="text")] == ["bm25=1, dense=3"]


def test_invalid_queries_are_reported_on_the_page(answers: PageResponder) -> None:
    for fields, message in (
        ({"q": "x", "mode": "hybird"}, "Did you mean 'hybrid'?"),
        ({"q": "x", "top_k": "many"}, "whole number"),
        ({"q": "x", "top_k": "1000"}, "at most 100"),
        ({"q": "x", "weight": "2"}, "between 0"),
        ({"q": "x", "weight": "nan"}, "between 0"),
        ({"q": "x", "weights": "bm25=0.5,dens=0.5"}, "'dens' is no mode of the index. Did you mean 'dense'?"),
        ({"q": "x", "weights": "bm25=0.5,dense"}, "bm25=0.3,dense=0.7"),
        ({"q": "x", "weights": "bm25=0.5,bm25=0.4"}, "given twice"),
        ({"q": "x", "weights": "bm25=0,dense=-1"}, "weights must be at least 0"),
        ({"q": "x", "weights": "bm25=1", "weight": "1"}, "weight, weights"),
        ({"q": "x", "per_document": "0"}, "at least 1"),
        ({"q": "x", "fusion": "sum"}, "scores or ranks"),
        ({"q": "x", "filter": "topic"}, "is no filter"),
        ({"q": "x" * (MAX_QUERY_CHARS + 1)}, "2,001 characters"),
        ({"q": "x", "rerank": "maybe"}, "yes or no"),
        ({"q": "x", "rerank_weight": "2"}, "0 (as found) and 1 (the reranker's order alone)"),
        ({"q": "x", "tpo_k": "3"}, "Did you mean 'top_k'?"),
        ({"q": ["x", "y"]}, "given twice"),
    ):
        page = shown(answers, status=400, **fields)
        assert message in page.text
        assert page.all("p", class_="problem", role="alert")
        if "q" in fields and "tpo_k" not in fields and isinstance(fields["q"], str):
            assert page.all("input", name="q")[0]["value"] == fields["q"], "what was written stays to be mended"
    assert answers.reply("/?q=%ff").status == 400
    assert shown(answers, q="   ").all("form"), "an empty query is an empty form"
    assert shown(answers, q="zzzz", mode="bm25").text.count("No passages") == 1


def test_json_says_the_same(answers: PageResponder, searcher: Searcher) -> None:
    fields = {"q": "violin orchestra", "top_k": "3", "rerank": "no", "filter": ["topic=music", "year>=1995"]}
    reply = answers.reply(f"/search?{urlencode(fields, doseq=True)}")
    assert (reply.status, reply.kind) == (200, "application/json")
    response = json.loads(reply.body)
    conditions = parse_query(parse_form(urlencode(fields, doseq=True))).conditions
    hits = searcher.search("violin orchestra", top_k=3, conditions=conditions).hits
    assert [hit["text"] for hit in response["hits"]] == [hit.text for hit in hits]
    assert [hit["score"] for hit in response["hits"]] == pytest.approx([hit.score for hit in hits])
    assert response["seconds"]["bm25"] > 0
    wrong = answers.reply("/search?q=")
    assert wrong.status == 400
    assert json.loads(wrong.body)["error"] == {"message": "The query is empty.", "status": 400}


def test_a_document_is_put_together_again_around_its_passage(answers: PageResponder, searcher: Searcher) -> None:
    hit = max(searcher.search("violin mark5x0", top_k=50).hits, key=lambda candidate: candidate.number)
    points = [p for some in searcher.index.store.scan() for p in some if p.document == hit.document]
    assert len(points) > 3
    page = shown(answers, "/document", id=hit.document, passage=hit.number, q="violin")
    here = page.all("p", id="here")
    assert len(here) == 1
    marks = re.findall(r"mark\d+x\d+", page.text)
    whole = {mark for point in points for mark in re.findall(r"mark\d+x\d+", point.text)}
    assert len(marks) == len(set(marks)), "what overlaps is shown once"
    assert set(marks) == whole
    back = page.all("a", href="/?q=violin")
    assert back, "back to the search that returned it"
    assert shown(answers, "/document", status=404, id=hit.document, passage=len(points)).text
    assert "id: is missing" in shown(answers, "/document", status=400).text


def test_a_long_document_is_shown_in_stretches(tmp_path: Path) -> None:
    lines = "\n".join(f"Sentence number {i} is about the thing called w{i}x." for i in range(400))
    (tmp_path / "long.txt").write_text(lines, encoding="utf-8")
    build([tmp_path / "long.txt"], tmp_path / "words", None, IndexSettings(passages=Passages(size=20)))
    with Searcher.open(tmp_path / "words") as searcher, PageResponder(searcher) as answers:
        hit = searcher.search("w200x").hits[0]
        seen = set(re.findall(r"w\d+x", shown(answers, "/document", id=hit.document, passage=hit.number).text))
        number = hit.number
        assert 10 < len(seen) < 100
        while links := [
            dict(urlpairs(held["href"]))
            for held in shown(answers, "/document", id=hit.document, passage=number).all("a")
            if "#here" in (held["href"] or "") and int(dict(urlpairs(held["href"]))["passage"]) > number
        ]:
            number = int(links[0]["passage"])
            seen |= set(re.findall(r"w\d+x", shown(answers, "/document", id=hit.document, passage=number).text))
        assert {f"w{i}x" for i in range(200, 400)} <= seen
        assert [held["value"] for held in shown(answers).all("option")] == [""], "there are no vectors to find by"


def urlpairs(address: str | None) -> list[tuple[str, str]]:
    from urllib.parse import parse_qsl

    return parse_qsl(urlsplit(address or "").query)


def test_the_number_of_waiting_requests_is_limited(answers: PageResponder, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> None:
        begun.set()
        go.wait(10)
        raise InputError("enough")

    monkeypatch.setattr(answers.searcher, "search", slow)
    monkeypatch.setattr(answers, "_room", threading.BoundedSemaphore(1))
    first = threading.Thread(target=answers.reply, args=("/?q=a",))
    first.start()
    assert begun.wait(10)
    reply = answers.reply("/?q=b")
    go.set()
    first.join(10)
    assert reply.status == 503
    assert answers.reply("/?q=b").status == 400, "there is room again"


def test_what_fails_inside_is_no_secret_and_no_end(
    answers: PageResponder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a secret path")

    monkeypatch.setattr(answers.searcher, "search", broken)
    reply = answers.reply("/search?q=a")
    assert reply.status == 500
    assert "secret" not in reply.body.decode()
    assert "a secret path" in capsys.readouterr().err
    monkeypatch.undo()
    assert answers.reply("/search?q=violin").status == 200


@pytest.fixture
def server(answers: PageResponder) -> Iterator[PageServer]:
    with PageServer(answers, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join(10)


def ask(server: PageServer, target: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, target, headers=headers)
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply, body


def test_over_a_socket(server: PageServer) -> None:
    reply, body = ask(server, "/?q=violin")
    assert reply.status == 200
    assert b'class="hit"' in body
    policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "Python" not in reply.headers["Server"]
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        reply, body = ask(server, f"/{name}")
        assert reply.headers["Content-Type"].startswith(kind)
        assert body
    reply, body = ask(server, "/?q=violin", "HEAD")
    assert (reply.status, body) == (200, b"")
    assert int(reply.headers["Content-Length"]) > 0


def test_other_hosts_and_methods_are_refused(server: PageServer) -> None:
    for host, status in (
        ("localhost", 200),
        (f"127.0.0.1:{server.server_port}", 200),
        ("[::1]:80", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ):
        assert ask(server, "/", Host=host)[0].status == status, host
    reply, _ = ask(server, "/", "POST")
    assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD")
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    assert ask(server, "/?q=" + "x" * LONGEST_TARGET)[0].status == 414
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert b"cannot be asked" in raw.recv(4000)
    assert ask(server, "/?q=violin")[0].status == 200


def test_many_at_once_get_their_own_answers(server: PageServer) -> None:
    queries = [f"mark{i}x0" for i in range(12)]
    documents: dict[str, str] = {}

    def one(query: str) -> None:
        _, body = ask(server, f"/search?q={query}&mode=bm25&rerank=no")
        documents[query] = json.loads(body)["hits"][0]["document"]

    threads = [threading.Thread(target=one, args=(query,)) for query in queries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert documents == {f"mark{i}x0": f"doc{i}" for i in range(12)}


def test_a_place_that_is_taken_or_none(server: PageServer) -> None:
    with pytest.raises(InputError, match="another program"):
        PageServer(server.answers, port=server.server_port)
    with pytest.raises(InputError, match="cannot listen there"):
        PageServer(server.answers, host="256.1.1.1", port=0)
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_the_files_of_the_page_ask_nobody_else() -> None:
    folder = Path(answers_module.__file__).parent
    for name in ("page.css", "page.js"):
        text = (folder / name).read_text(encoding="utf-8")
        assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"^\s*//.*", "", text, flags=re.M))


def test_the_command_serves_until_it_is_stopped(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from encodery.cli.search import app

    build([rows], tmp_path / "words", None)
    asked_: list[int] = []

    def serve(server: PageServer, poll_interval: float = 0.5) -> None:
        asked_.append(server.answers.reply("/?q=violin").status)
        raise KeyboardInterrupt

    monkeypatch.setattr(PageServer, "serve_forever", serve)
    done = CliRunner().invoke(app, ["page", str(tmp_path / "words"), "--port", "0"], catch_exceptions=False)
    assert asked_ == [200]
    assert "http://127.0.0.1:" in done.stdout
