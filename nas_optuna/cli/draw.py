"""``nas-optuna draw``: an architecture as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import STDOUT, say, write_out
from nas_optuna.errors import SpecError

if TYPE_CHECKING:
    import optuna


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(epilog="Example: nas-optuna draw --trial best --out best.svg")(draw)


def draw(
    context: typer.Context,
    study: options.StudyName = "nas",
    trial: options.Trial = "best",
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture",
            metavar="ARCHITECTURE",
            help="Draw this point of the study's space instead.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="SVG file; STUDY-trial-N.svg by default, - for stdout."),
    ] = None,
    storage: options.Storage = None,
    data_dir: options.DataDir = None,
    trust: options.Trust = False,
) -> None:
    """Draw a trial's network as SVG: its layers, their shapes, and their shares of the compute.

    The picture follows the reader's light or dark setting. Every browser opens it.
    """
    from nas_optuna.report.drawing import draw as draw_architecture
    from nas_optuna.report.drawing import draw_trial
    from nas_optuna.report.selection import choose, space_of
    from nas_optuna.study.studies import file_name

    if architecture is not None and options.is_given(context, "trial"):
        raise SpecError("--trial and --architecture name two networks; give one of them")
    loaded = trusted_study(storage, study, trust)
    space = space_of(loaded)
    if architecture is not None:
        drawing, name = draw_architecture(space, space.parse(architecture)), f"{file_name(study)}-architecture.svg"
    else:
        found = choose(loaded, trial, data_dir)
        drawing, name = draw_trial(space, found), f"{file_name(study)}-trial-{found.number}.svg"
    if out == STDOUT:
        write_out(out, drawing.svg)
        return
    say(f"wrote {drawing.save(out or Path(name))}")


def trusted_study(storage: str | None, name: str, trust: bool) -> optuna.Study:
    """A stored study whose space may be built here.

    Raises:
        StudyError: There is no such study, or it names code that nobody has agreed to.
    """
    from nas_optuna.report.notebook import load_study

    return load_study(name, storage, trust=trust).study
