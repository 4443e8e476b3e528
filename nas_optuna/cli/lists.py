"""``nas-optuna list``, ``data`` and ``space``: the available choices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from operator import itemgetter
from typing import Annotated, Any

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import Column, print_json, print_table, say
from nas_optuna.cli.run_options import Data, ImageSize, Space, SpecOptions
from nas_optuna.data_sets import DATA_SETS, DESCRIPTIONS
from nas_optuna.devices import list_devices
from nas_optuna.errors import DataError, SpecError, unknown
from nas_optuna.lazily import lazily
from nas_optuna.metrics import METRICS
from nas_optuna.objectives import COSTS
from nas_optuna.pruners import PRUNERS
from nas_optuna.quantities import plural
from nas_optuna.samplers import SAMPLERS
from nas_optuna.spaces import SPACES, create_space
from nas_optuna.spaces.architecture import text_of

with lazily():
    from nas_optuna.data import data_directory, load_images
    from nas_optuna.oneshot.strategies import STRATEGIES
    from nas_optuna.presets import describe_preset, preset_names
    from nas_optuna.spec_parts import make_evaluator
    from nas_optuna.spec_text import toml_value

_MADE_BY_US = ("in_channels", "classes", "input_size")
"""Options of a space that the data decide."""

HINTS = {
    "presets": "take one with --spec NAME; a file of your own works as well",
    "spaces": "take one with --space NAME; its options are --set space.OPTION=VALUE",
    "samplers": "take one with --sampler NAME; its options are --set sampler.OPTION=VALUE",
    "pruners": "take one with --pruner NAME; its options are --set pruner.OPTION=VALUE",
    "metrics": "take one with --objective NAME",
    "costs": "take one beside accuracy, --objective accuracy --objective NAME, or as a limit: --set limits.NAME=MOST",
    "strategies": "take one with supernet train --strategy NAME; its options are --set supernet.OPTION=VALUE",
    "data": "take one with --data",
    "devices": "take one with --device; where only cpu is listed, there is no GPU",
}
"""What can be listed, and how to choose one of them."""


def list_(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="presets, spaces, samplers, pruners, metrics, costs, strategies, data or devices.",
            autocompletion=lambda: list(HINTS),
        ),
    ],
    json: options.Json = False,
) -> None:
    """List what an option takes: presets, spaces, samplers, pruners, metrics, costs, strategies, data or devices."""
    if what not in HINTS:
        raise SpecError(unknown("list", what, HINTS))
    show(what, json=json)


def data_fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set's name.", autocompletion=DATA_SETS.names)],
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Download a data set where it is absent, check it, and say what it holds."""
    parts = {"train": load_images(name, True, data_dir), "test": load_images(name, False, data_dir)}
    rows = [
        {
            "part": part,
            "images": len(images),
            "shape": "×".join(map(str, images.images.shape[1:])),
            "classes": len(images.classes),
        }
        for part, images in parts.items()
    ]
    columns = [Column(key, itemgetter(key), right=key in ("images", "classes")) for key in rows[0]]
    print_table(f"data set {name}", columns, rows, json=json)
    if not json:
        say(*dict.fromkeys(line for images in parts.values() for line in images.notes))
        if not (DATA_SETS.is_of_files(name) or name == "digits"):  # which stay where they are
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
    asked = SpecOptions(data=data, space=space, spec=spec, image_size=image_size, set_=set_)
    asked.refuse_twice()
    given = asked.read()
    try:
        found = make_evaluator(given, data_dir, "cpu")[1].space
    except DataError:
        if DATA_SETS.is_of_files(given.data.name):
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
    print_table(f"space {found.name}: {plural(found.size, 'architecture')}", ("parameter", "choices", "ordered"), rows)


def listing(what: str, purpose: str) -> Callable[..., None]:
    """A command that prints one of the lists under another name than ``list WHAT``."""

    def command(json: options.Json = False) -> None:
        show(what, json=json)

    command.__doc__ = purpose
    return command


def show(what: str, *, json: bool) -> None:
    """Print one of the lists."""
    found = _rows(what)
    keys = [key for key in found[0] if key != "index" and any(_cell(key, row) for row in found)]  # a device has a name
    columns = [Column(key.removesuffix("_bytes"), partial(_cell, key), wrap=True) for key in keys]
    print_table(what, columns, found, json=json)
    if not json:
        say(HINTS[what])


def _cell(key: str, row: dict[str, Any]) -> str | None:
    value = row[key]
    if isinstance(value, dict):
        return ", ".join(_option(k, each) for k, each in value.items() if k not in _MADE_BY_US)
    return f"{value / 2**30:.1f} GiB" if key == "memory_bytes" else value


def _option(name: str, value: object) -> str:
    """An option with its default, as ``--set`` takes it."""
    if value is None:
        return f"{name} (unset)"
    return f"{name}={value if isinstance(value, str) else toml_value(value)}"


def _rows(what: str) -> list[dict[str, Any]]:
    """The rows of a list, JSON-ready; their keys are the columns of the table."""
    if what == "devices":
        return [asdict(device) for device in list_devices()]
    if what == "presets":
        return [{"name": name, "what": describe_preset(name)} for name in preset_names()]
    if what == "data":
        known = {name: DESCRIPTIONS.get(name, "from an installed plugin") for name in DATA_SETS.names()}
        known |= {
            "folder:PATH": "pictures in one directory per class; in train/, val/ and test/ where these exist",
            "npz:FILE": "arrays images and labels; val_images, test_images, … where they exist",
            "file.py:function": "your own: function(train, directory) returns an ImageSet",
        }
        return [{"name": name, "what": text} for name, text in known.items()]
    registries = {"spaces": SPACES, "samplers": SAMPLERS, "pruners": PRUNERS, "metrics": METRICS, "costs": COSTS}
    return (registries | {"strategies": STRATEGIES})[what].describe()
