"""``nas-optuna report``: a study as a page that one can send."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from nas_optuna.cli.options import TrustedStudyOptions, option
from nas_optuna.cli.printing import write_out


def report(
    stored: TrustedStudyOptions,
    out: Annotated[
        Path, option("HTML file, which needs no internet connection; report.html; - for stdout.", "FILE")
    ] = Path("report.html"),
) -> None:
    """Write a study's report: the winner, drawn; its figures with error bars; how the search went."""
    from nas_optuna.report.page import report as page_of
    from nas_optuna.study.files import holding

    study = stored.open_trusted()
    write_out(out, page_of(study, stored.data_dir, holding(stored.url, study, "supernet-*")))
