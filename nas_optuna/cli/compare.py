"""``nas-optuna compare``: several studies side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import STDOUT, Column, count, print_json, print_table, say, seconds, write_out


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(epilog="Example: nas-optuna compare random tpe --out compare.html")(compare)


def compare(
    studies: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of the studies.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write an HTML page with curves; - for stdout.", show_default=False),
    ] = None,
    storage: options.Storage = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Compare what several studies of one storage found, and with how much training."""
    from nas_optuna.report.comparison import comparison_page, differences, require_comparable, summary_of
    from nas_optuna.study.standard_errors import with_error
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
        columns = [
            Column("study"),
            Column(objective, right=True),
            Column("complete", right=True, rank=1),
            Column("trials", right=True),
            Column("time", right=True, rank=2),
            Column("sampler", rank=3),
            Column("architecture", shortest=12, rank=4),
        ]
        rows = [
            (
                s.study,
                None if s.best is None else with_error(objective, s.best, s.error, count),
                s.complete,
                s.trials,
                seconds(s.seconds),
                s.sampler,
                s.architecture,
            )
            for s in summaries
        ]
        print_table("comparison", columns, rows)
    if out is not None:
        write_out(out, comparison_page(loaded, summaries))
