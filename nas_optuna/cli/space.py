"""``nas-optuna space``: what can be chosen."""

from __future__ import annotations

from typing import Any

from nas_optuna.cli import options
from nas_optuna.cli.printing import print_json, print_table, say
from nas_optuna.errors import DataError


def show(
    spec: options.Spec = None,
    set_: options.Set = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Show a spec's search space for its own data: the parameters, their choices, and how many architectures."""
    from nas_optuna.cli.specs import SpecOptions
    from nas_optuna.spaces import create_space
    from nas_optuna.spec_parts import make_evaluator

    given = SpecOptions(spec=spec, set_=set_).read()
    try:
        space = make_evaluator(given, data_dir, "cpu")[1].space
    except DataError:
        if given.data.name.startswith(("folder:", "npz:")):
            raise
        say(f"for one channel, ten classes and {given.recipe.input_size or 28} pixels, because the data are not here")
        shape: dict[str, Any] = {"in_channels": 1, "classes": 10, "input_size": given.recipe.input_size or 28}
        space = create_space(given.space.name, given.space.options, **shape)
    if json:
        parameters = {name: {"choices": list(p.choices), "ordered": p.ordered} for name, p in space.parameters.items()}
        print_json({"name": space.name, "size": space.size, "parameters": parameters})
        return
    rows = [
        (name, ", ".join(map(str, p.choices)), "yes" if p.ordered else "no") for name, p in space.parameters.items()
    ]
    print_table(f"space {space.name}: {_size(space.size)}", ("parameter", "choices", "ordered"), rows)


def _size(size: int) -> str:
    return f"{size:,} architectures" + (f" ({size:.2e})" if size >= 1e9 else "")
