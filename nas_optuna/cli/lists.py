"""``nas-optuna list``, ``data`` and ``space``: the available choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer

from nas_optuna.cli import options
from nas_optuna.cli.options import completes, named_by
from nas_optuna.cli.printing import Column, print_json, print_table, say
from nas_optuna.cli.run_options import Data, ImageSize, Space, SpecOptions
from nas_optuna.data_sets import DATA_SETS, DESCRIPTIONS
from nas_optuna.devices import list_devices
from nas_optuna.errors import DataError, SpecError, unknown
from nas_optuna.quantities import plural
from nas_optuna.spaces import create_space
from nas_optuna.spaces.architecture import text_of

_MADE_BY_US = ("in_channels", "classes", "input_size")
"""Options of a space that the data decide."""

Listing = tuple[list[dict[str, Any]], str]
"""The rows, JSON-ready, whose keys are the columns of the table; and how to choose one."""


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


def data_fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set's name.", autocompletion=completes("DATA"))],
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Download a data set where it is absent, check it, and say what it holds."""
    from nas_optuna.data import data_directory, load_images

    rows, notes = [], {}
    for part, train in (("train", True), ("test", False)):
        images = load_images(name, train, data_dir)
        notes[part] = images.notes
        rows.append((part, len(images), "×".join(map(str, images.images.shape[1:])), len(images.classes)))
    if json:
        keys = ("part", "images", "shape", "classes")
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    columns = ("part", Column("images", right=True), "channels×height×width", Column("classes", right=True))
    print_table(f"data set {name}", columns, rows)
    say(*dict.fromkeys(line for lines in notes.values() for line in lines))
    say(f"kept in {data_dir or data_directory()}")


def space_show(
    data: Data = None,
    space: Space = None,
    spec: options.Spec = None,
    image_size: ImageSize = None,
    set_: options.Set = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Show a spec's search space for its own data: the parameters, their choices, and how many architectures."""
    from nas_optuna.spec_parts import make_evaluator

    given = SpecOptions(data=data, space=space, spec=spec, image_size=image_size, set_=set_).read()
    try:
        found = make_evaluator(given, data_dir, "cpu")[1].space
    except DataError:
        if given.data.name.startswith(("folder:", "npz:")):
            raise
        say(f"for one channel, ten classes and {given.recipe.input_size or 28} pixels, because the data are not here")
        shape: dict[str, Any] = {"in_channels": 1, "classes": 10, "input_size": given.recipe.input_size or 28}
        found = create_space(given.space.name, given.space.options, **shape)
    if json:
        parameters = {name: {"choices": list(p.choices), "ordered": p.ordered} for name, p in found.parameters.items()}
        print_json({"name": found.name, "size": found.size, "parameters": parameters})
        return
    rows = [
        (name, ", ".join(map(text_of, p.choices)), "yes" if p.ordered else "no") for name, p in found.parameters.items()
    ]
    print_table(f"space {found.name}: {_size(found.size)}", ("parameter", "choices", "ordered"), rows)


def _size(size: int) -> str:
    return plural(size, "architecture") + (f" ({size:.2e})" if size >= 1e9 else "")


def listing(what: str, purpose: str) -> Callable[..., None]:
    """A command that prints one of the lists under another name than ``list WHAT``."""

    def command(json: options.Json = False) -> None:
        show(what, json=json)

    command.__doc__ = purpose
    return command


def show(what: str, *, json: bool) -> None:
    """Print one of the lists."""
    found, remark = LISTS[what]()
    keys = [key for key in found[0] if key != "index" and any(_cell(key, row) for row in found)]  # a device has a name
    columns = [Column(key.removesuffix("_bytes"), partial(_cell, key), wrap=True) for key in keys]
    print_table(what, columns, found, json=json)
    if not json:
        say(remark)


def _cell(key: str, row: dict[str, Any]) -> str | None:
    value = row[key]
    if isinstance(value, dict):
        return ", ".join(f"{name}={option}" for name, option in value.items() if name not in _MADE_BY_US)
    return f"{value / 2**30:.1f} GiB" if key == "memory_bytes" else value


def _parts(key: str, remark: str) -> Listing:
    """The parts of a registry, with advice and options."""
    return [asdict(part) for part in named_by(key).describe()], remark


def _presets() -> Listing:
    from nas_optuna.presets import describe_preset, preset_names

    found = [{"name": name, "what": describe_preset(name)} for name in preset_names()]
    return found, "take one with --spec NAME; a file of your own works as well"


def _data() -> Listing:
    known = {name: DESCRIPTIONS.get(name, "from an installed plugin") for name in DATA_SETS.names()}
    known |= {
        "folder:PATH": "pictures in one directory per class; in train/, val/ and test/ where these exist",
        "npz:FILE": "arrays images and labels; val_images, test_images, … where they exist",
        "package.module:function": "your own: function(train, directory) returns an ImageSet",
    }
    return [{"name": name, "what": what} for name, what in known.items()], "take one with --data"


def _devices() -> Listing:
    found = [asdict(device) for device in list_devices()]
    alone = "There is no GPU here: networks are trained on the CPU."
    return found, alone if len(found) == 1 else "take one with --device"


LISTS: dict[str, Callable[[], Listing]] = {
    "presets": _presets,
    "spaces": partial(_parts, "SPACES", "take one with --space NAME; its options are --set space.OPTION=VALUE"),
    "samplers": partial(_parts, "SAMPLERS", "take one with --sampler NAME; its options are --set sampler.OPTION=VALUE"),
    "pruners": partial(_parts, "PRUNERS", "take one with --pruner NAME; its options are --set pruner.OPTION=VALUE"),
    "metrics": partial(_parts, "METRICS", "take one with --objective NAME"),
    "costs": partial(_parts, "COSTS", "take one with --objective NAME, or as a limit: --set limits.NAME=MOST"),
    "strategies": partial(
        _parts,
        "STRATEGIES",
        "take one with supernet train --strategy NAME; its options are --set supernet.OPTION=VALUE",
    ),
    "data": _data,
    "devices": _devices,
}
