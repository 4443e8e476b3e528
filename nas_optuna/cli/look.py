"""A study as a page, a picture, beside others, and in optuna-dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.commands import study_names
from nas_optuna.cli.options import Trial, TrustedStudyOptions, option
from nas_optuna.cli.printing import STDOUT, print_json, print_table, say, write_out
from nas_optuna.errors import SpecError, StudyError

HOST = "127.0.0.1"


def report(
    stored: TrustedStudyOptions,
    out: Annotated[
        Path, option("HTML file, which needs no internet connection; report.html; - for stdout.", "FILE")
    ] = Path("report.html"),
) -> None:
    """Write a study's report: the winner, drawn; its figures with error bars; how the search went."""
    write_out(out, stored.load().report().html)


def draw(
    context: typer.Context,
    stored: TrustedStudyOptions,
    trial: Trial = "best",
    architecture: Annotated[str | None, option("Draw this point of the study's space instead.", "ARCHITECTURE")] = None,
    out: Annotated[Path | None, option("SVG file; STUDY-trial-N.svg by default, - for stdout.", "FILE")] = None,
) -> None:
    """Draw a trial's network as SVG: its layers, their shapes, and their shares of the compute.

    The picture follows the reader's light or dark setting. Every browser opens it.
    """
    from nas_optuna.report.drawing import draw as draw_architecture
    from nas_optuna.study.studies import file_name

    given = context.get_parameter_source("trial")
    if architecture is not None and given is not None and given.name == "COMMANDLINE":
        raise SpecError("--trial and --architecture name two networks; give one of them")
    study = stored.load()
    if architecture is not None:
        drawing, what = draw_architecture(study.space, study.space.parse(architecture)), "architecture"
    else:
        drawing, what = study.draw(trial), f"trial-{study.trial(trial).number}"
    if out == STDOUT:
        write_out(out, drawing.svg)
        return
    say(f"wrote {drawing.save(out or Path(f'{file_name(stored.study)}-{what}.svg'))}")


def compare(
    studies: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Names of the studies.", show_default=False, autocompletion=study_names),
    ],
    out: Annotated[Path | None, option("Write an HTML page with curves; - for stdout.", "FILE")] = None,
    storage: options.Storage = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Compare what several studies of one storage found, and with how much training."""
    from nas_optuna.report.comparison import columns_for, comparison_page, differences, require_comparable, summary_of
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.studies import load_study

    opened = open_storage(storage_url(storage))
    loaded = [load_study(opened, name) for name in dict.fromkeys(studies)]
    objective = require_comparable(loaded)
    summaries = [summary_of(study, data_dir) for study in loaded]
    if others := differences(loaded):
        say("they differ in more than their samplers and pruners, so that the values do not compare these alone:")
        for line in others:
            say(f"    {line}")
    if out == STDOUT:
        pass
    elif json:
        print_json([summary.to_dict() for summary in summaries])
    else:
        print_table("comparison", columns_for(objective, brief=True), summaries)
    if out is not None:
        write_out(out, comparison_page(loaded, summaries))


def dashboard(
    storage: options.Storage = None,
    port: Annotated[int, option("Port on 127.0.0.1; 8080.", "N", min=1, max=65535)] = 8080,
) -> None:
    """Serve optuna-dashboard for the storage, with its artifacts, on 127.0.0.1 until Ctrl-C.

    It answers to 127.0.0.1 and localhost only, and to no page of another origin: no web page that you visit can read or
    delete studies.
    """
    from optuna_dashboard import wsgi

    from nas_optuna.report.dashboard import ArtifactFolders
    from nas_optuna.report.readable import ReadableAttributes
    from nas_optuna.report.server import OwnPagesOnly, create_server
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
