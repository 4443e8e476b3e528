"""``nas-optuna data``: data sets by name."""

from __future__ import annotations

from typing import Annotated

import typer

from nas_optuna.cli import lists, options
from nas_optuna.cli.printing import Column, print_json, print_table, say


def list_(json: options.Json = False) -> None:
    """List the data sets that have a name; beside them there are folder:PATH, npz:FILE and package.module:function."""
    lists.show("data", json=json)


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
    columns = ("part", Column("images", right=True), "channels×height×width", Column("classes", right=True))
    print_table(f"data set {name}", columns, rows)
    for line in dict.fromkeys(line for lines in notes.values() for line in lines):
        say(line)
    say(f"kept in {data_dir or data_directory()}")
