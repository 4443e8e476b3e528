"""``nas-optuna list``: everything that has a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import print_json, print_table, say
from nas_optuna.errors import SpecError, unknown

if TYPE_CHECKING:
    from nas_optuna.registry import Registry

_MADE_BY_US = ("in_channels", "classes", "input_size")
"""What a space is given with the data, and no user sets."""


@dataclass(frozen=True)
class Listing:
    """What is listed.

    Attributes:
        headings: Of the table's columns.
        rows: Of the table.
        values: JSON-ready.
        remark: How one is chosen.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    values: Sequence[Any]
    remark: str = ""


def register(parent: typer.Typer) -> None:
    """Add the command, and those that list one thing and had names of their own before."""
    parent.command("list", epilog="Example: nas-optuna list samplers --json")(list_)
    parent.command(epilog="Example: nas-optuna samplers --json", hidden=True)(samplers)
    parent.command(epilog="Example: nas-optuna devices --json", hidden=True)(devices)


def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="presets, spaces, samplers, pruners, metrics, costs, strategies, data or devices.",
            autocompletion=lambda: list(LISTS),
        ),
    ],
    json: options.Json = False,
) -> None:
    """List what an option takes: presets, spaces, samplers, pruners, metrics, costs, strategies, data or devices."""
    if what not in LISTS:
        raise SpecError(unknown("list", what, LISTS))
    show(what, json=json)


def samplers(json: options.Json = False) -> None:
    """List every sampler: as list samplers."""
    show("samplers", json=json)


def devices(json: options.Json = False) -> None:
    """List every device: as list devices."""
    show("devices", json=json)


def show(what: str, *, json: bool) -> None:
    """Print one of the lists."""
    found = LISTS[what]()
    if json:
        print_json(found.values)
        return
    print_table(what, found.headings, found.rows)
    if found.remark:
        say(found.remark)


def _parts(find: Callable[[], Registry], remark: str) -> Listing:
    """The parts of a registry, with a line of advice and their options."""
    found = find().describe()
    rows = [
        (d.name, d.advice, ", ".join(f"{key}={value}" for key, value in d.options.items() if key not in _MADE_BY_US))
        for d in found
    ]
    if not any(row[2] for row in rows):
        return Listing(("name", "what"), [row[:2] for row in rows], [asdict(d) for d in found], remark)
    return Listing(("name", "advice", "options"), rows, [asdict(d) for d in found], remark)


def _registry(name: str) -> Callable[[], Registry]:
    def find() -> Registry:
        from nas_optuna import metrics, objectives, pruners, samplers, spaces

        known: dict[str, Registry] = {
            "samplers": samplers.SAMPLERS,
            "pruners": pruners.PRUNERS,
            "spaces": spaces.SPACES,
            "metrics": metrics.METRICS,
            "costs": objectives.COSTS,
        }
        return known[name]

    return find


def _presets() -> Listing:
    from nas_optuna.presets import describe_preset, preset_names

    rows = [(name, describe_preset(name)) for name in preset_names()]
    values = [{"name": name, "what": what} for name, what in rows]
    return Listing(("name", "what"), rows, values, "take one with --spec NAME; a file of your own works as well")


def _data() -> Listing:
    from nas_optuna.data.catalog import DESCRIPTIONS, set_names

    rows = [(name, DESCRIPTIONS.get(name, "from an installed plugin")) for name in set_names()]
    rows += [
        ("folder:PATH", "pictures in one directory per class; in train/, val/ and test/ where these exist"),
        ("npz:FILE", "arrays images and labels; val_images, test_images, … where they exist"),
        ("package.module:function", "your own: function(train, directory) returns an ImageSet"),
    ]
    return Listing(
        ("name", "what"), rows, [{"name": name, "what": what} for name, what in rows], "take one with --data"
    )


def _devices() -> Listing:
    from nas_optuna.devices import list_devices

    found = list_devices()
    rows = [(d.device, d.name, f"{d.memory_bytes / 2**30:.1f} GiB", d.capability) for d in found]
    remark = "There is no GPU here: networks are trained on the CPU." if len(found) == 1 else "take one with --device"
    return Listing(("device", "name", "memory", "capability"), rows, [asdict(d) for d in found], remark)


def _strategies() -> Listing:
    from nas_optuna.oneshot.strategies import STRATEGIES, find_strategy

    found = [(d.name, d.advice, find_strategy(d.name).Options().model_dump()) for d in STRATEGIES.describe()]
    rows = [(name, advice, ", ".join(f"{key}={x}" for key, x in given.items())) for name, advice, given in found]
    values = [{"name": name, "advice": advice, "options": given} for name, advice, given in found]
    remark = "take one with supernet train --strategy NAME; its options are --set supernet.OPTION=VALUE"
    return Listing(("name", "advice", "options"), rows, values, remark)


LISTS: dict[str, Callable[[], Listing]] = {
    "presets": _presets,
    "spaces": partial(
        _parts, _registry("spaces"), "take one with --space NAME; its options are --set space.OPTION=VALUE"
    ),
    "samplers": partial(
        _parts, _registry("samplers"), "take one with --sampler NAME; its options are --set sampler.OPTION=VALUE"
    ),
    "pruners": partial(
        _parts, _registry("pruners"), "take one with --pruner NAME; its options are --set pruner.OPTION=VALUE"
    ),
    "metrics": partial(_parts, _registry("metrics"), "take one with --objective NAME"),
    "costs": partial(
        _parts, _registry("costs"), "take one with --objective NAME, or as a limit: --set limits.NAME=MOST"
    ),
    "strategies": _strategies,
    "data": _data,
    "devices": _devices,
}
