"""``nas-optuna compare``: several studies side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.options import option
from nas_optuna.cli.printing import STDOUT, Column, print_json, print_table, say, write_out
from nas_optuna.quantities import duration

if TYPE_CHECKING:
    from nas_optuna.report.comparison import Summary


def compare(
    studies: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of the studies.", show_default=False)],
    out: Annotated[Path | None, option("Write an HTML page with curves; - for stdout.", "FILE")] = None,
    storage: options.Storage = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Compare what several studies of one storage found, and with how much training."""
    from nas_optuna.quantities import count
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

        def best(summary: Summary) -> str | None:
            return None if summary.best is None else with_error(objective, summary.best, summary.error, count)

        columns = [
            Column("study", lambda s: s.study),
            Column(objective, best, right=True),
            Column("complete", lambda s: s.complete, right=True, rank=1),
            Column("trials", lambda s: s.trials, right=True),
            Column("time", lambda s: duration(s.seconds), right=True, rank=2),
            Column("sampler", lambda s: s.sampler, rank=3),
            Column("architecture", lambda s: s.architecture, shortest=12, rank=4),
        ]
        print_table("comparison", columns, summaries)
    if out is not None:
        write_out(out, comparison_page(loaded, summaries))
