"""A page about the running server for a browser, the same as JSON, and metrics for Prometheus.

Owns: the small HTTP server of ``millpond web``; it runs in the command's own process, looks as ``millpond status`` does, changes nothing.
Invariants: only GET is answered, and only under a name that leads here (a page elsewhere cannot read this one by a name of its own that it
has pointed at this machine); nothing a client of the file server chose is taken for HTML; one look a second at most, however many ask.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv6Address
from socket import AF_INET, AF_INET6
from typing import NamedTuple

from pools.layout import WireError
from smbd.monitor.metrics import CONTENT_TYPE, exposition
from smbd.monitor.snapshot import Snapshot
from smbd.monitor.tables import as_text

FRESH = 1.0
"""Seconds for which a look is good enough."""

PATIENCE = 10.0
"""Seconds that a browser may take for its request."""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Millpond</title><meta http-equiv="refresh" content="5">
<style>body {{ font: 14px/1.4 monospace; margin: 1.5em; color: #222 }} pre {{ overflow-x: auto }} a {{ color: #3d6b99 }}</style>
</head><body><pre>{text}</pre><p><a href="/status.json">status.json</a> <a href="/metrics">metrics</a></p></body></html>
"""


class Answer(NamedTuple):
    """A page."""

    content_type: str
    text: str


class Looks:
    """The latest snapshot, taken anew when it is too old. Any thread may ask."""

    def __init__(self, take: Callable[[], Snapshot]) -> None:
        self._take = take
        self._turn = threading.Lock()
        self._taken = -FRESH
        self._latest: Snapshot = {}

    def latest(self) -> Snapshot:
        """At most ``FRESH`` seconds old."""
        with self._turn:
            if time.monotonic() - self._taken >= FRESH:
                self._latest = self._take()
                self._taken = time.monotonic()
            return self._latest


def page(path: str, snapshot: Snapshot) -> Answer | None:
    """What stands at a path; None for nothing."""
    if path == "/":
        return Answer("text/html; charset=utf-8", _PAGE.format(text=escape(as_text(snapshot))))
    if path == "/status.json":
        return Answer("application/json", json.dumps(snapshot, indent=2) + "\n")
    if path == "/metrics":
        return Answer(CONTENT_TYPE, exposition(snapshot))
    return None


def _without_port(host: str) -> str:
    """The name in a Host header; an IPv6 address has its brackets (RFC 9110, 7.2)."""
    return host if host.endswith("]") else host.rpartition(":")[0] or host


def _as_asked_for(address: str) -> str:
    """An address as it stands in a Host header."""
    return f"[{IPv6Address(address.partition('%')[0])}]" if ":" in address else address.casefold()


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Web
    timeout = PATIENCE
    server_version = "Millpond"
    sys_version = ""

    def do_GET(self) -> None:  # the base class's name
        """Answer, or say why not."""
        if _without_port(self.headers.get("Host", "")).casefold() not in self.server.names:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "not this server's name", "ask for it by the name or address it listens on")
            return
        try:
            answer = page(self.path.partition("?")[0], self.server.looks.latest())
        except (OSError, WireError) as error:
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "the file server does not run", str(error))
            return
        if answer is None:
            self.send_error(HTTPStatus.NOT_FOUND, explain="there are /, /status.json and /metrics")
            return
        body = answer.text.encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # the base class's signature
        """Nothing: a page that renews itself would fill a log."""


class Web(ThreadingHTTPServer):
    """Listens on ``address``; ``serve_forever`` answers until ``shutdown``."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], take: Callable[[], Snapshot], names: frozenset[str] = frozenset()) -> None:
        self.looks = Looks(take)
        self.address_family = AF_INET6 if ":" in address[0] else AF_INET
        super().__init__(address, _Handler)
        self.names = {"localhost", "127.0.0.1", "[::1]", _as_asked_for(address[0]), *(name.casefold() for name in names)}
