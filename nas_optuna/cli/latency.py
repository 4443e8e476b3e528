"""``nas-optuna latency``: measure a space's operations, and check the table against whole networks."""

from __future__ import annotations

import shlex
from collections.abc import Sized
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.options import option
from nas_optuna.cli.printing import print_facts, print_json, require_writable, say
from nas_optuna.devices import current, resolve_device
from nas_optuna.errors import Interrupted, SpecError, TableError
from nas_optuna.lazily import lazily
from nas_optuna.spaces import SPACES, SearchSpace, create_space

with lazily():
    from nas_optuna.cli.progress import bars
    from nas_optuna.costs import latency, latency_kit, latency_table, runtimes, timing
    from nas_optuna.spec_text import with_overrides

if TYPE_CHECKING:
    from nas_optuna.costs.latency import Check
    from nas_optuna.costs.runtimes import Conditions


@dataclass(frozen=True)
class SpaceOptions:
    """A search space and its input; each field is an option."""

    space: Annotated[
        str | None, option("Search space (default: conv); FILE.py:FUNCTION for one of your own.", "NAME")
    ] = None
    set_: Annotated[list[str] | None, option("An option of the space, e.g. depth=3.", "KEY=VALUE", "--set")] = None
    input_size: Annotated[int, option("Side of the square input in pixels (default: 28).", "N", min=1)] = 28
    in_channels: Annotated[int, option("Channels of the input (default: 1).", "N", min=1)] = 1
    classes: Annotated[int, option("Number of classes (default: 10).", "N", min=1)] = 10

    def make(self, name: str | None = None) -> SearchSpace:
        """The space, or that of another name with these options."""
        shape = {"in_channels": self.in_channels, "classes": self.classes, "input_size": self.input_size}
        given = [text.strip().removeprefix("space.") for text in self.set_ or ()]  # as other commands have them
        return create_space(name or self.space or "conv", with_overrides({}, given, "--set"), **shape)


BatchSize = Annotated[int, option("Images per call (default: 1).", "N", min=1)]


def measure(
    out: Annotated[Path, option("The table's file; one that is there is continued.", "FILE")],
    wanted: SpaceOptions,
    device: options.Device = "auto",
    runtime: Annotated[
        str, option("torch, torch-compile, onnxruntime, or a runtime of yours (default: torch).", "NAME")
    ] = "torch",
    threads: Annotated[int, option("Threads of one operation on the CPU (default: 1).", "N", min=1)] = 1,
    batch_size: BatchSize = 1,
    precision: Annotated[
        str, option("fp32, bf16, fp16 or int8, as the runtime has them (default: fp32).", "NAME")
    ] = "fp32",
    rounds: Annotated[
        int, option("Visits of each operation, of which the fastest counts (default: 6).", "N", min=1)
    ] = 6,
    json: options.Json = False,
) -> None:
    """Measure every operation that a space can contain. Stop it with Ctrl-C; the same command goes on."""
    require_writable(out)
    chosen, space = resolve_device(device), wanted.make()
    conditions = runtimes.Conditions.here(
        chosen, runtime=runtime, threads=threads, batch_size=batch_size, precision=precision
    )
    try:
        with bars(time_left=True) as shown, current(chosen):
            table = latency.measure_table(
                space, conditions, out, rounds=rounds, progress=partial(shown.show, "measuring")
            )
    except KeyboardInterrupt:
        raise Interrupted from None
    if json:
        counts = {"operations": len(table.entries), "networks": len(table.networks)}
        print_json({"table": str(out), **counts, "conditions": asdict(table.conditions)})
        return
    say(f"{_held(table.entries, table.networks)} of space {space.name!r} in {out}, {table.conditions}")


def check(
    table: Annotated[Path, typer.Argument(metavar="FILE", help="A latency table.")],
    wanted: SpaceOptions,
    space: Annotated[str | None, option("FILE.py:FUNCTION, where the table is of a function.", "NAME")] = None,
    device: options.Device = "auto",
    networks: Annotated[int | None, option("Random networks to measure (default: 30).", "N", min=3)] = None,
    seed: Annotated[int | None, option("Seed of the networks (default: 0).", "N", min=0)] = None,
    save_overhead: Annotated[
        bool, option("Write a fitted overhead into the table, if it helps.", None, "--save-overhead")
    ] = False,
    force: Annotated[bool, option("Compare although another device or version measured it.", None, "--force")] = False,
    json: options.Json = False,
) -> None:
    """Compare what a table predicts with whole networks: its kit's, or others that are measured now."""
    loaded = latency_table.LatencyTable.load(table)
    theirs = loaded.conditions
    here, chosen = theirs, resolve_device("cpu")
    if loaded.kit or loaded.whole:
        asked = {"--networks": networks, "--seed": seed, "--device": None if device == "auto" else device}
        if given := [flag for flag, value in asked.items() if value is not None]:
            raise SpecError(f"{table} holds networks that were measured with it; leave out {' and '.join(given)}")
    else:
        chosen = resolve_device(device)
        here = runtimes.Conditions.here(
            chosen,
            runtime=theirs.runtime,
            threads=theirs.threads,
            batch_size=theirs.batch_size,
            precision=theirs.precision,
        )
        if not force:
            loaded.require(here, table, "compare all the same: --force")
    made = wanted.make(_named_space(loaded.space, space, table))
    margin = latency_table.LatencyTable.open(table, made, force=force, anyway="--force").margin(made)
    measured = loaded.model_copy(update={"conditions": here})
    with bars(time_left=True) as shown, current(chosen):
        result = latency.check_table(
            measured, made, networks=networks or 30, seed=seed or 0, progress=partial(shown.show, "measuring")
        )
    helps = result.overhead_helps and not loaded.whole
    if save_overhead and helps:
        loaded.model_copy(update={"overhead_ms": result.overhead_ms}).save(table)
    _print_check(table, here, result, margin, json)
    if save_overhead:
        say(f"overhead written to {table}" if helps else f"no overhead written to {table}, since none would help")


def kit(
    out: Annotated[Path, option("The kit's folder; an earlier kit there is replaced.", "FOLDER")],
    wanted: SpaceOptions,
    batch_size: BatchSize = 1,
    precision: Annotated[list[str] | None, option("fp32 or int8; repeatable (default: both).", "NAME")] = None,
    networks: Annotated[
        int | None, option("Random whole networks (default: 30 beside operations, 300 without).", "N", min=3)
    ] = None,
    json: options.Json = False,
) -> None:
    """Write what another device needs to measure a space: ONNX files and one Python file; it needs onnxruntime only."""
    runtimes.make_runtime("onnxruntime").version()  # says what is not installed
    require_writable(out)
    space = wanted.make()
    with bars(time_left=True) as shown:
        written = latency_kit.write_kit(
            space,
            out,
            precisions=tuple(precision or timing.PRECISIONS),
            batch_size=batch_size,
            networks=networks,
            progress=partial(shown.show, "writing"),
        )
    if json:
        counts = {"operations": len(written["operations"]), "networks": len(written["networks"])}
        print_json({"kit": str(out), "id": written["id"], "precisions": written["precisions"], **counts})
        return
    script = shlex.quote(f"{out.resolve().name}/measure.py")
    say(
        f"{_held(written['operations'], written['networks'])} of space {space.name!r} in {out}",
        f"copy the folder to the device, and run there: pip install onnxruntime && python {script} > table.json",
        "then here: nas-optuna run --max-latency MS --latency-table table.json …",
    )


def _held(operations: Sized, networks: Sized) -> str:
    """The content of a table or a kit, for a message."""
    if not operations:
        return f"{len(networks)} whole networks"
    return f"{len(operations)} operations" + (f" and {len(networks)} whole networks" if networks else "")


def _print_check(table: Path, here: Conditions, result: Check, margin: float | None, json: bool) -> None:
    without, fitted = result.error
    figures = {
        "networks": len(result.measured_ms),
        "spearman": result.spearman,
        "median_relative_error": without,
        "median_relative_error_with_overhead": fitted,
        "overhead_ms": result.overhead_ms,
        "overhead_helps": result.overhead_helps,
        "margin": margin,
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
            ("overhead that fits these networks", f"{result.overhead_ms:+.3f} ms"),
            ("room that a limit leaves", "none: it holds no whole networks" if margin is None else f"{margin:.1%}"),
        ]
        print_facts(f"{table}, {here}", rows)


def _named_space(stored: str, given: str | None, table: Path) -> str:
    """The space of a table; for a function, the user must name the file."""
    if given is None and stored not in SPACES:
        raise TableError(f"{table} is of the function {stored!r}; say where it is: --space FILE.py:{stored}")
    if given is not None and given.rpartition(":")[2] != stored:
        raise TableError(f"{table} is of space {stored!r}, not {given!r}")
    return given or stored
