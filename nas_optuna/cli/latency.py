"""``nas-optuna latency``: measure a space's operations, and check the table against whole networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import print_json, print_table, refuse_stdout, say

if TYPE_CHECKING:
    from nas_optuna.costs.latency import Conditions
    from nas_optuna.costs.latency_table import Check
    from nas_optuna.spaces import SearchSpace

app = typer.Typer(
    help="Measure latency tables, and check them.",
    no_args_is_help=True,
    epilog="Example: nas-optuna latency measure --space conv --device cpu --out table.json",
)

SpaceName = Annotated[str, typer.Option("--space", metavar="NAME", help="Search space.")]
SpaceOptions = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the space, e.g. depth=3.")
]
InputSize = Annotated[int, typer.Option(metavar="N", help="Side of the square input in pixels.", min=1)]
InChannels = Annotated[int, typer.Option(metavar="N", help="Channels of the input.", min=1)]
Classes = Annotated[int, typer.Option(metavar="N", help="Number of classes.", min=1)]


def register(parent: typer.Typer) -> None:
    """Add the command group."""
    parent.add_typer(app, name="latency")


@app.command(epilog="Example: nas-optuna latency measure --space conv --device cpu --out table.json")
def measure(
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table's file; one that is there is continued.")],
    space: SpaceName = "conv",
    set_: SpaceOptions = None,
    input_size: InputSize = 28,
    in_channels: InChannels = 1,
    classes: Classes = 10,
    device: options.Device = "auto",
    runtime: Annotated[
        str, typer.Option(metavar="NAME", help="torch, torch-compile, onnxruntime, or a runtime of yours.")
    ] = "torch",
    threads: Annotated[int, typer.Option(metavar="N", help="Threads of one operation on the CPU.", min=1)] = 1,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images per call.", min=1)] = 1,
    precision: Annotated[
        str, typer.Option(metavar="NAME", help="fp32, bf16, fp16 or int8, as the runtime has them.")
    ] = "fp32",
    rounds: Annotated[int, typer.Option(metavar="N", help="Visits of each operation; its fastest counts.", min=1)] = 6,
    json: options.Json = False,
) -> None:
    """Measure every operation that a space can contain. Stop it with Ctrl-C; the same command goes on."""
    from nas_optuna.costs.latency import Conditions
    from nas_optuna.costs.latency_table import measure_table
    from nas_optuna.devices import resolve_device
    from nas_optuna.errors import TableError

    refuse_stdout(out)
    if not out.parent.is_dir():
        raise TableError(f"directory {out.parent} does not exist; make it, or choose another --out")
    conditions = Conditions.here(
        resolve_device(device), runtime=runtime, threads=threads, batch_size=batch_size, precision=precision
    )
    made = _space(space, set_, input_size, in_channels, classes)
    try:
        with _bar("measuring") as progress:
            table = measure_table(made, conditions, out, rounds=rounds, progress=progress)
    except KeyboardInterrupt:
        say(f"stopped; {out} is kept, and the same command goes on from there")
        raise typer.Exit(130) from None
    if json:
        counts = {"operations": len(table.entries), "networks": len(table.networks)}
        print_json({"table": str(out), **counts, "conditions": asdict(table.conditions)})
        return
    say(f"{_held(table.entries, table.networks)} of space {space!r} in {out}, {table.conditions}")


@app.command(epilog="Example: nas-optuna latency check table.json --save-overhead")
def check(
    table: Annotated[Path, typer.Argument(metavar="FILE", help="A latency table.")],
    space: Annotated[
        str | None,
        typer.Option(
            "--space", metavar="NAME", help="FILE.py:FUNCTION, where the table is of a function.", show_default=False
        ),
    ] = None,
    set_: SpaceOptions = None,
    input_size: InputSize = 28,
    in_channels: InChannels = 1,
    classes: Classes = 10,
    device: options.Device = "auto",
    networks: Annotated[int, typer.Option(metavar="N", help="Random networks to measure.", min=3)] = 30,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the networks.", min=0)] = 0,
    save_overhead: Annotated[
        bool, typer.Option("--save-overhead", help="Write a fitted overhead into the table, if it helps.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Compare although another device or version measured it.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Compare the sums of a table with whole networks, measured on the spot."""
    from nas_optuna.costs.latency import Conditions
    from nas_optuna.costs.latency_table import LatencyTable, check_table
    from nas_optuna.devices import resolve_device

    loaded = LatencyTable.load(table)
    theirs = loaded.conditions
    here = theirs
    if not loaded.networks:
        here = Conditions.here(
            resolve_device(device),
            runtime=theirs.runtime,
            threads=theirs.threads,
            batch_size=theirs.batch_size,
            precision=theirs.precision,
        )
        if not force:
            loaded.require(here, table, "compare all the same: --force")
    made = _space(_named_space(loaded.space, space, table), set_, input_size, in_channels, classes)
    measured = loaded.model_copy(update={"conditions": here})
    with _bar("measuring") as progress:
        result = check_table(measured, made, networks=networks, seed=seed, progress=progress)
    if save_overhead and result.overhead_helps and not loaded.whole:
        loaded.model_copy(update={"overhead_ms": result.overhead_ms}).save(table)
    _print_check(table, here, result, json)
    if save_overhead and result.overhead_helps and not loaded.whole:
        say(f"overhead written to {table}")


@app.command(epilog="Example: nas-optuna latency kit --space conv --out kit")
def kit(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The kit's folder; an earlier kit there is replaced.")],
    space: SpaceName = "conv",
    set_: SpaceOptions = None,
    input_size: InputSize = 28,
    in_channels: InChannels = 1,
    classes: Classes = 10,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images per call.", min=1)] = 1,
    precision: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="fp32 or int8; repeat it.", show_default="fp32 and int8")
    ] = None,
    networks: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Random whole networks.", min=3, show_default="30 beside operations, 300 without"
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Write what another device needs to measure a space: ONNX files and one Python file; it needs onnxruntime only."""
    from nas_optuna.costs.latency_kit import write_kit
    from nas_optuna.costs.runtimes import make_runtime
    from nas_optuna.costs.timing import PRECISIONS
    from nas_optuna.errors import TableError

    make_runtime("onnxruntime").version()  # says what is not installed
    if not out.absolute().parent.is_dir():
        raise TableError(f"directory {out.parent} does not exist; make it, or choose another --out")
    made = _space(space, set_, input_size, in_channels, classes)
    with _bar("writing") as progress:
        written = write_kit(
            made,
            out,
            precisions=tuple(precision or PRECISIONS),
            batch_size=batch_size,
            networks=networks,
            progress=progress,
        )
    if json:
        counts = {"operations": len(written["operations"]), "networks": len(written["networks"])}
        print_json({"kit": str(out), "id": written["id"], "precisions": written["precisions"], **counts})
        return
    say(f"{_held(written['operations'], written['networks'])} of space {space!r} in {out}")
    say(f"on the device: pip install onnxruntime && python {out.name}/measure.py > table.json")
    say("then here: nas-optuna run --max-latency MS --latency-table table.json …")


def _held(operations: Sized, networks: Sized) -> str:
    """What a table or a kit holds."""
    if not operations:
        return f"{len(networks)} whole networks"
    return f"{len(operations)} operations" + (f" and {len(networks)} whole networks" if networks else "")


def _print_check(table: Path, here: Conditions, result: Check, json: bool) -> None:
    without, fitted = result.error
    figures = {
        "networks": len(result.measured_ms),
        "spearman": result.spearman,
        "median_relative_error": without,
        "median_relative_error_with_overhead": fitted,
        "overhead_ms": result.overhead_ms,
        "overhead_helps": result.overhead_helps,
    }
    if json:
        pairs = {"measured_ms": result.measured_ms, "table_ms": result.table_ms}
        print_json(figures | pairs | {"conditions": asdict(here)})
    else:
        rows = [
            ("networks", figures["networks"]),
            ("Spearman rank correlation", f"{result.spearman:.3f}"),
            ("median relative error", f"{without:.1%}"),
            ("the same with an overhead fitted to the other networks", f"{fitted:.1%}"),
            ("overhead", f"{result.overhead_ms:+.3f} ms"),
        ]
        print_table(f"{table}, {here}", ("", ""), rows)


def _named_space(stored: str, given: str | None, table: Path) -> str:
    """The space of a table; a function's name does not say in which file it is."""
    from nas_optuna.errors import TableError
    from nas_optuna.spaces import SPACES

    if given is None and stored not in SPACES:
        raise TableError(f"{table} is of the function {stored!r}; say where it is: --space FILE.py:{stored}")
    if given is not None and given.rpartition(":")[2] != stored:
        raise TableError(f"{table} is of space {stored!r}, not {given!r}")
    return given or stored


def _space(name: str, options: list[str] | None, input_size: int, in_channels: int, classes: int) -> SearchSpace:
    from nas_optuna.spaces import create_space
    from nas_optuna.spec_text import with_overrides

    given = with_overrides({}, options or [])
    return create_space(name, given, in_channels=in_channels, classes=classes, input_size=input_size)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with the time left, on the error stream, so that what is printed can be piped."""
    from nas_optuna.cli.progress import live, shows_live, text

    if not shows_live():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

    with live(text("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
