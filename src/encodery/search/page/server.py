"""The server of the page: that of the standard library, on this machine only by default.

It reads and never changes anything, so only GET and HEAD are answered. A request must name a host of this server: a web
page elsewhere whose name was made to point here (DNS rebinding) sends its own name, and is refused. Numeric addresses,
which cannot be made to point elsewhere, are accepted."""

from __future__ import annotations

import errno
import socket
import socketserver
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from encodery.base.errors import InputError
from encodery.base.hosts import names_this_machine
from encodery.search.page.responder import PageResponder, Reply, problem_reply

HOST, PORT = "127.0.0.1", 8765
LONGEST_TARGET = 16_384
"""Limit in bytes for a request's path and query string: a query and ten filters, escaped."""
SECONDS = 20
"""Longest time that a client may take for a request."""
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class PageServer(ThreadingHTTPServer):
    """Listens as soon as it is created; `serve_forever` answers until `shutdown`. Use it as a context, or close it.

    Port 0 takes a free one. Raises `InputError` for an address that cannot be used."""

    daemon_threads = True

    def __init__(self, answers: PageResponder, host: str = HOST, port: int = PORT) -> None:
        self.answers, self.host = answers, host
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family = addresses[0][0]
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError, UnicodeError) as error:
            raise InputError(f"{host}:{port}: cannot listen there ({_reason(error)}).") from error

    def server_bind(self) -> None:
        """Bind without asking the name server, as the standard library does, which may take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.host, int(self.server_address[1])

    @property
    def url(self) -> str:
        """The address of the page."""
        shown = {"0.0.0.0": HOST, "::": "::1", "": HOST}.get(self.host, self.host)
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{self.server_port}/"

    def ours(self, header: str | None) -> bool:
        """Return whether a request's Host header names this server."""
        return names_this_machine(header or "", (self.host,))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect; the page reports its own errors (`PageResponder.reply`)."""


class _Handler(BaseHTTPRequestHandler):
    timeout = SECONDS
    server: PageServer

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        headers: Message = self.headers
        if not self.server.ours(headers.get("Host")):
            self._send(
                problem_reply(403, f"This page is not at '{(headers.get('Host') or '')[:100]}'; it is at localhost.")
            )
        elif len(self.path) > LONGEST_TARGET:
            self._send(problem_reply(414, f"The address has {len(self.path):,} bytes; {LONGEST_TARGET:,} are taken."))
        else:
            self._send(self.server.answers.reply(self.path))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send an error that the standard library raises before the page is asked, in the page's form."""
        text = {501: "Only GET and HEAD are answered."}.get(code, message or "The request cannot be read.")
        self._send(problem_reply(405 if code == 501 else code, text))

    def _send(self, reply: Reply) -> None:
        self.close_connection = True
        self.send_response(reply.status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if reply.status == 405:
            self.send_header("Allow", "GET, HEAD")
        if reply.status == 503:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def version_string(self) -> str:
        """Return a name without versions."""
        return "encodery"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: queries are private."""


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return "another program listens there; port 0 takes a free one"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return "ports below 1024 need a right that this user lacks"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
