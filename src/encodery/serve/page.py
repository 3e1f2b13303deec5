"""The page for trying what is served, and for reading of every route: three files, nothing from elsewhere.

It holds nothing of the models: what it shows it asks for, with the key that was typed in, so it may be open to all.
"""

from __future__ import annotations

import importlib.resources

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/docs": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}


def page_file(path: str) -> tuple[bytes, str]:
    """A file of the page by its path, and its content type."""
    name, kind = FILES[path]
    return importlib.resources.files(__package__).joinpath(name).read_bytes(), kind
