"""The page for trying the models and reading about the routes: three files, nothing from elsewhere.

It contains nothing of the models: what it shows it requests with the key that the user types, so it is open to all.
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
    """The content and the content type of the file at a path."""
    name, content_type = FILES[path]
    return importlib.resources.files(__package__).joinpath(name).read_bytes(), content_type
