"""``nas-optuna dashboard``: optuna-dashboard on this machine's own address."""

from __future__ import annotations

from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Annotated
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import say
from nas_optuna.errors import StudyError

HOST = "127.0.0.1"


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(epilog="Example: nas-optuna dashboard --port 8080")(dashboard)


def dashboard(
    storage: options.Storage = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port on 127.0.0.1.")] = 8080,
) -> None:
    """Serve optuna-dashboard for the storage, with its artifacts, on 127.0.0.1 until Ctrl-C."""
    from optuna.artifacts import FileSystemArtifactStore
    from optuna_dashboard import wsgi

    from nas_optuna.running.storage import files_folder, open_storage, storage_url

    url = storage_url(storage)
    opened = open_storage(url)
    artifacts = files_folder(url) / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    application = wsgi(opened, artifact_store=FileSystemArtifactStore(artifacts))
    try:
        server = make_server(HOST, port, application, server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise StudyError(f"cannot serve on {HOST}:{port} ({error.strerror}); choose another --port") from error
    say(f"optuna-dashboard: http://{HOST}:{port}/dashboard  (Ctrl-C ends it)")
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a request: a page asks for several things at once."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """Requests of a person's own browser are no news."""

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""
