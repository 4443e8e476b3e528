"""A small web server for one person's browser, which pages of strangers and what is in a database cannot misuse.

A browser sends requests of any page that a person visits to 127.0.0.1 as well. Two checks stop them. A page whose own
name was made to resolve to 127.0.0.1 (DNS rebinding) still sends that name as the host. A page of another origin names
itself in ``Origin`` or ``Sec-Fetch-Site``. An artifact of somebody else's study (HTML, SVG) may hold a
script, which must not run in the origin of the dashboard.
"""

from __future__ import annotations

from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN = frozenset({"", "none", "same-origin"})
"""``Sec-Fetch-Site`` of the server's own pages and of an address typed in; tools send none."""


class OwnPagesOnly:
    """A WSGI application that answers only to its own host names on a port, and only to its own pages."""

    def __init__(
        self, application: WSGIApplication, port: int, names: Iterable[str] = ("127.0.0.1", "localhost", "[::1]")
    ) -> None:
        self._application = application
        self._hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or refuse it with status 403 and the reason."""
        if reason := self._refusal(environ):
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Cross-Origin-Resource-Policy", "same-origin")]
            start_response("403 Forbidden", headers)
            return [reason.encode()]

        def start(status: str, headers: list[tuple[str, str]], *rest: object) -> object:
            left = [(name, value) for name, value in headers if not name.lower().startswith("access-control-")]
            policy = _policy(str(environ.get("PATH_INFO", "")))
            return start_response(status, [*left, *_PROTECTION, *policy], *rest)  # type: ignore[arg-type]

        return self._application(environ, start)  # type: ignore[arg-type]

    def _refusal(self, environ: WSGIEnvironment) -> str | None:
        host = str(environ.get("HTTP_HOST", "")).lower()
        if host not in self._hosts:
            return f"This server answers to {' and '.join(sorted(self._hosts))} only.\n"
        origin = str(environ.get("HTTP_ORIGIN", ""))
        foreign = bool(origin) and urlsplit(origin).netloc.lower() != host
        site = str(environ.get("HTTP_SEC_FETCH_SITE", ""))
        followed_link = (
            environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
            and environ.get("HTTP_SEC_FETCH_DEST") == "document"
            and environ["REQUEST_METHOD"] in _READING
        )
        if foreign or (site not in _OWN and not followed_link):
            return "This server answers to its own pages only.\n"
        return None


_SANDBOX = "sandbox; default-src 'none'; img-src 'self' data:; media-src 'self'; style-src 'unsafe-inline'"
"""What a browser may run of an answer that is no page of the dashboard's own: nothing, and in no origin."""


def _policy(path: str) -> list[tuple[str, str]]:
    own = path == "/" or path.startswith(("/dashboard", "/static/"))
    return [] if own else [("Content-Security-Policy", _SANDBOX)]


_PROTECTION = [
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
    ("X-Content-Type-Options", "nosniff"),
]
"""Headers that keep a page of another origin from embedding, framing or holding on to what is served."""


def create_server(host: str, port: int, application: WSGIApplication) -> WSGIServer:
    """Bind an address; ``serve_forever`` of the result then answers."""
    return make_server(host, port, application, server_class=_Server, handler_class=_Handler)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a request: a page asks for several things at once."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """Requests of a person's own browser are no news."""

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""
