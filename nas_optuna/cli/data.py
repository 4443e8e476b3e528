"""``nas-optuna data``: data sets by name."""

from __future__ import annotations

from typing import Annotated

import typer

from nas_optuna.cli import lists, options
from nas_optuna.cli.printing import print_json, print_table, say

app = typer.Typer(help="List and fetch data sets.", no_args_is_help=True, epilog="Example: nas-optuna data fetch mnist")


def register(parent: typer.Typer) -> None:
    """Add the command group."""
    parent.add_typer(app, name="data")


@app.command("list", epilog="Example: nas-optuna data list")
def list_(json: options.Json = False) -> None:
    """List the data sets that have a name; beside them there are folder:PATH, npz:FILE and package.module:function."""
    lists.show("data", json=json)


@app.command(epilog="Example: nas-optuna data fetch mnist --data-dir data")
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A data set's name.")],
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
    print_table(f"data set {name}", ("part", "images", "channels×height×width", "classes"), rows, right=(1, 3))
    for line in dict.fromkeys(line for lines in notes.values() for line in lines):
        say(line)
    say(f"kept in {data_dir or data_directory()}")
