"""HTML: one document per file, with its text by block, without scripts, menus and blocks that are mostly links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from encodery.base.settings import check_interval
from encodery.corpus.encoding import HEAD, decode
from encodery.corpus.sources import SourceFile
from encodery.corpus.steps.read import FileReader, RawDocument, ReadContext, Skip
from encodery.corpus.streams import read_source

if TYPE_CHECKING:
    from lxml.html import HtmlElement

CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([\w-]+)""", re.IGNORECASE)
DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")
NOT_TEXT = (
    "script",
    "style",
    "noscript",
    "template",
    "svg",
    "math",
    "iframe",
    "object",
    "select",
    "button",
    "input",
    "textarea",
    "form",
    "nav",
    "footer",
    "aside",
    "canvas",
)
LANDMARKS = frozenset(
    ("navigation", "banner", "contentinfo", "complementary", "search")
)  # ARIA roles that are not text.
FURNITURE = frozenset(("navheader", "navfooter", "headerlink", "related", "sphinxsidebar", "breadcrumbs"))
# fmt: off
BLOCKS = frozenset((
    "address", "article", "blockquote", "body", "center", "dd", "details", "div", "dl", "dt",
    "fieldset", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "header",
    "hr", "li", "main", "ol", "p", "pre", "section", "summary", "table", "tbody",
    "tfoot", "thead", "tr", "ul", "caption",
))
# fmt: on
UNCLOSED = frozenset(("li", "tr", "dt", "dd"))  # Elements that end where the next one starts.
LINKED = ("ul", "ol", "dl", "div", "p", "table", "td")
BLANKS = re.compile(r"[ \t\r\n\f]+")


@dataclass(frozen=True, kw_only=True)
class HtmlReader(FileReader):
    """HTML reader.

    `max_link_fraction`: lists, tables and divisions with a larger fraction of their characters in links are taken for
    menus and removed; 1 keeps all.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".html", ".htm", ".xhtml")
    max_link_fraction: float = 0.75

    def __post_init__(self) -> None:
        check_interval(self, "0 < x <= 1", "max_link_fraction")

    def read(self, source: SourceFile, skip: Skip, context: ReadContext) -> Iterator[RawDocument]:
        data = read_source(source)
        encoding = context.encoding
        declared = CHARSET.search(data[:HEAD])
        if encoding == "auto" and declared:
            try:
                yield from self._row(decode(data, declared[1].decode("ascii")))
                return
            except Exception as error:
                if type(error).__name__ != "Unusable":
                    raise
        yield from self._row(decode(data, encoding))

    def _row(self, page: str) -> Iterator[RawDocument]:
        title, text = plain(page, self.max_link_fraction)
        yield text, {"title": title} if title else {}


def plain(page: str, max_link_fraction: float = 0.75) -> tuple[str, str]:
    """Return (title, text) of a page.

    Blocks are separated by newlines and table cells by tabs; `<pre>` keeps its lines.
    """
    from lxml import etree, html

    page = DECLARATION.sub("", page.replace("\x00", ""))
    if not page.strip():
        return "", ""
    try:
        root = html.document_fromstring(page, parser=html.HTMLParser(huge_tree=True, remove_comments=True))
    except etree.ParserError:
        return "", ""
    title = BLANKS.sub(" ", root.findtext(".//title") or "").strip()[:300]
    body = root.find("body")
    body = root if body is None else body
    etree.strip_elements(body, *NOT_TEXT, with_tail=False)
    _drop_furniture(body)
    if max_link_fraction < 1:
        _drop_menus(body, max_link_fraction)
    return title, _text(body)


def _drop_furniture(body: HtmlElement) -> None:
    """Remove what surrounds the text of a page, recognised by ARIA roles and by the classes of manual generators."""
    for element in list(body.iter()):
        if element.getparent() is None or not isinstance(element.tag, str):
            continue
        if element.get("role") in LANDMARKS or not FURNITURE.isdisjoint((element.get("class") or "").split()):
            element.drop_tree()


def _drop_menus(body: HtmlElement, max_link_fraction: float) -> None:
    for element in list(body.iter(*LINKED)):
        links = sum(len(text.strip()) for link in element.iter("a") for text in link.itertext() if link.get("href"))
        # A short link is part of a sentence, not a menu.
        if links > 40 and links > max_link_fraction * sum(len(text.strip()) for text in element.itertext()):
            parent = element.getparent()
            if parent is not None:
                element.drop_tree()


def _text(body: HtmlElement) -> str:
    from lxml import etree

    out: list[str] = []
    pre_depth = 0
    for event, element in etree.iterwalk(body, events=("start", "end", "comment", "pi")):
        if event == "comment" or event == "pi":
            piece = element.tail
        elif event == "start":
            pre_depth += element.tag == "pre"
            if element.tag in BLOCKS or element.tag == "br":
                out.append("\n")
            if element.tag in ("h1", "h2", "h3", "h4", "p", "pre", "table"):
                out.append("\n")
            piece = element.text
        else:
            pre_depth -= element.tag == "pre"
            if element.tag in ("td", "th"):
                out.append("\t")
            elif element.tag in BLOCKS and element.tag not in UNCLOSED:
                out.append("\n")
            piece = element.tail if element is not body else None
        if piece:
            out.append(piece if pre_depth else BLANKS.sub(" ", piece))
    lines = [line.rstrip() if line.startswith("  ") else line.strip() for line in "".join(out).split("\n")]
    return "\n".join(lines).strip("\n")
