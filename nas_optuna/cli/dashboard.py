"""``nas-optuna dashboard``: optuna-dashboard on this machine's own address."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from nas_optuna.cli import options
from nas_optuna.cli.options import option
from nas_optuna.cli.printing import say
from nas_optuna.errors import StudyError

HOST = "127.0.0.1"


def dashboard(
    storage: options.Storage = None,
    port: Annotated[int, option("Port on 127.0.0.1; 8080.", "N", min=1, max=65535)] = 8080,
) -> None:
    """Serve optuna-dashboard for the storage, with its artifacts, on 127.0.0.1 until Ctrl-C.

    It answers to 127.0.0.1 and localhost only, and to no page of another origin: no web page that you visit can read or
    delete studies.
    """
    from optuna_dashboard import wsgi

    from nas_optuna.report.artifacts import ArtifactFolders
    from nas_optuna.report.guard import OwnPagesOnly
    from nas_optuna.report.readable import ReadableAttributes
    from nas_optuna.report.server import create_server
    from nas_optuna.study.files import folders
    from nas_optuna.study.storage import open_storage, storage_url

    url = storage_url(storage)
    opened = open_storage(url)
    artifacts = folders(url)[0] / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)

    def others() -> Iterator[Path]:
        for study in opened.get_all_studies():
            yield from (folder / "artifacts" for folder in folders(url, study.user_attrs))

    pages = wsgi(opened, artifact_store=ArtifactFolders(artifacts, others))
    application = OwnPagesOnly(ReadableAttributes(pages, opened.get_study_user_attrs), port)
    try:
        server = create_server(HOST, port, application)
    except OSError as error:
        raise StudyError(f"cannot serve on {HOST}:{port} ({error.strerror}); choose another --port") from error
    say(f"optuna-dashboard: http://{HOST}:{port}/dashboard  (Ctrl-C ends it)")
    with server, suppress(KeyboardInterrupt):
        server.serve_forever()
