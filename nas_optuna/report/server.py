"""A small web server for one person's browser."""

from __future__ import annotations

from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


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
