"""``nas-optuna report`` and ``nas-optuna compare``: studies as pages that one can send."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.draw import trusted_study
from nas_optuna.cli.printing import write_out


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(epilog="Example: nas-optuna report --study nas --out report.html")(report)


def report(
    study: options.StudyName = "nas",
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="HTML file, which needs no internet connection; - for stdout.")
    ] = Path("report.html"),
    storage: options.Storage = None,
    data_dir: options.DataDir = None,
    trust: options.Trust = False,
) -> None:
    """Write a study's report: the winner, drawn; its figures with error bars; how the search went."""
    from nas_optuna.report.page import report as page_of
    from nas_optuna.study.files import holding
    from nas_optuna.study.storage import storage_url

    loaded = trusted_study(storage, study, trust)
    write_out(out, page_of(loaded, data_dir, holding(storage_url(storage), loaded, "supernet-*")))
