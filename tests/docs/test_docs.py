"""Every block of commands and code in the pages is run: the quickstart, then the others in the order of the index.

The pages are about real texts and hours; here the texts are small, models tiny and budgets a few steps.
"""

from __future__ import annotations

import contextlib
import random
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from encodery.cli import verbs
from encodery.cli.__main__ import run

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GENERATED = {"parts.md": ["show", "--markdown"], "papers.md": ["papers", "--markdown"]}
INDEX = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
ORDER = ["index.md", *re.findall(r"\((\w+\.md)\)", INDEX)]
PAGES = [*(ROOT / "docs" / name for name in ORDER), ROOT / "CONTRIBUTING.md"]
TOLD = [page for page in PAGES if page.name not in GENERATED and page.name != "quickstart.md"]
SMALL = ["model.width=32", "model.depth=1", "model.heads=2", "model.intermediate_size=64", "train.batch_tokens=1024"]
SMALL += ["train.eval_tokens=512", "train.evals=1", "train.threads=1", "train.precision=fp32"]
THINGS = ["river", "mountain", "window", "garden", "captain", "letter", "summer", "winter", "village", "teacher"]
DEEDS = ["crossed", "painted", "followed", "remembered", "answered", "carried", "opened", "watched"]
MANNERS = ["slowly", "in the morning", "without a word", "for the last time", "with great care", "once more"]


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each block of a page."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def write_texts(folder: Path) -> None:
    rng = random.Random(0)
    folder.mkdir()
    for number in range(60):
        sentences = (
            f"The {rng.choice(THINGS)} and the {rng.choice(THINGS)} were there when the {rng.choice(THINGS)} "
            f"{rng.choice(DEEDS)} the {rng.choice(THINGS)} {rng.choice(MANNERS)}, number {rng.randrange(10_000)}."
            for _ in range(12)
        )
        (folder / f"{number}.txt").write_text(" ".join(sentences), encoding="utf-8")


def shrunk(arguments: list[str]) -> list[str]:
    """The same command with a model and a budget for a test."""
    if arguments[0] == "pretrain":
        kept = [a for a in arguments if a.split("=")[0] not in {s.split("=")[0] for s in SMALL}]
        if "--budget" in kept:
            del kept[kept.index("--budget") : kept.index("--budget") + 2]
        return [*kept, *SMALL, "--budget", "12steps"]
    if arguments[:2] == ["corpus", "build"]:
        return [*arguments, "--workers", "1"]
    if arguments[:2] == ["tokens", "encode"]:
        return [*arguments, "--workers", "1"]
    return arguments


def execute(page: Path) -> None:
    """Run the blocks of a page in the working directory."""
    names: dict[str, object] = {"__name__": "page"}
    for language, text in blocks(page):
        if language == "bash":
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words:
                    assert words[0] == "encodery", f"{page.name}: '{line}' cannot be run by the tests"
                    assert run(shrunk(words[1:])) == 0, f"{page.name}: {line}"
        elif language == "python":
            exec(compile(text, f"{page.name}", "exec"), names)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which the quickstart has been followed."""
    folder = tmp_path_factory.mktemp("story")
    write_texts(folder / "texts")
    with contextlib.chdir(folder):
        execute(ROOT / "docs" / "quickstart.md")
        yield folder


def test_the_quickstart_writes_what_it_describes(story: Path) -> None:
    for path in ("corpus/report.json", "tokens/manifest.json", "run/model/model.safetensors", "run/report.html"):
        assert (story / path).is_file(), path
    assert (story / "exported" / "config.json").is_file()


@pytest.mark.parametrize("page", TOLD, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Path, story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(story)
    monkeypatch.syspath_prepend(str(story))
    execute(page)


@pytest.mark.parametrize("page", GENERATED)
def test_generated_pages_are_up_to_date(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(GENERATED[page]) == 0
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == capsys.readouterr().out, "run scripts/docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere_and_verbs_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for verb in re.findall(r"`encodery ([a-z]+)", text):
        assert verb in verbs(), verb


def test_the_site_has_every_page() -> None:
    """mkdocs.yml lists each page once; `scripts/docs` builds the site with broken links as errors."""
    listed = re.findall(r"- [^:\n]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_index_leads_to_every_page() -> None:
    assert sorted(page.name for page in (ROOT / "docs").glob("*.md")) == sorted(set(ORDER))
