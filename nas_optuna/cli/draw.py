"""``nas-optuna draw``: an architecture as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_optuna.cli.options import Trial, TrustedStudyOptions, is_given, option
from nas_optuna.cli.printing import STDOUT, say, write_out
from nas_optuna.errors import SpecError


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
    from nas_optuna.report.drawing import draw_trial
    from nas_optuna.report.selection import choose, space_of
    from nas_optuna.study.studies import file_name

    if architecture is not None and is_given(context, "trial"):
        raise SpecError("--trial and --architecture name two networks; give one of them")
    study = stored.open_trusted()
    space, name = space_of(study), file_name(stored.study)
    if architecture is not None:
        drawing, name = draw_architecture(space, space.parse(architecture)), f"{name}-architecture.svg"
    else:
        found = choose(study, trial, stored.data_dir)
        drawing, name = draw_trial(space, found), f"{name}-trial-{found.number}.svg"
    if out == STDOUT:
        write_out(out, drawing.svg)
        return
    say(f"wrote {drawing.save(out or Path(name))}")
