"""``nas-optuna samplers``: what can propose architectures."""

from __future__ import annotations

from dataclasses import asdict

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import print_json, print_table, say


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(epilog="Example: nas-optuna samplers --json")(samplers)


def samplers(json: options.Json = False) -> None:
    """List every sampler with a line of advice, and its options with their defaults."""
    from nas_optuna.samplers import SAMPLERS

    found = SAMPLERS.describe()
    if json:
        print_json([asdict(sampler) for sampler in found])
        return
    rows = [(s.name, s.advice, ", ".join(f"{name}={value}" for name, value in s.options.items())) for s in found]
    print_table("samplers", ("sampler", "advice", "options"), rows)
    say("set one with --sampler NAME, or with its options: --set sampler=evolution --set sampler.crossover=0.5")
