"""``nas-optuna draw``: an architecture as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import say, write

if TYPE_CHECKING:
    import optuna


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(epilog="Example: nas-optuna draw --trial best --out best.svg")(draw)


def draw(
    study: options.StudyName = "nas",
    trial: options.Trial = "best",
    architecture: Annotated[
        str | None,
        typer.Option(
            "--architecture", metavar="TEXT", help="Draw this point of the study's space instead.", show_default=False
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
    from nas_optuna.report.selection import choose, space_of
    from nas_optuna.study.studies import file_name

    loaded = trusted_study(storage, study, trust)
    space = space_of(loaded)
    if architecture is not None:
        chosen, name = space.parse(architecture), f"{file_name(study)}-architecture.svg"
    else:
        found = choose(loaded, trial, data_dir)
        chosen, name = space.architecture(found.params), f"{file_name(study)}-trial-{found.number}.svg"
    drawing = draw_architecture(space, chosen)
    if out == Path("-"):
        write(drawing.svg + "\n")
        return
    say(f"wrote {drawing.save(out or Path(name))}")


def trusted_study(storage: str | None, name: str, trust: bool) -> optuna.Study:
    """A stored study whose space may be built here.

    Raises:
        StudyError: There is no such study, or it names code that nobody has agreed to.
    """
    from nas_optuna.experiment import code_named
    from nas_optuna.study.storage import open_storage, storage_url
    from nas_optuna.study.studies import load_study, study_spec
    from nas_optuna.study.trust import require_trust

    url = storage_url(storage)
    loaded = load_study(open_storage(url), name)
    require_trust(url, name, code_named(study_spec(loaded)), yes=trust)
    return loaded
