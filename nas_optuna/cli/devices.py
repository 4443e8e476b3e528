"""``nas-optuna devices``: what can train here."""

from __future__ import annotations

from dataclasses import asdict

import typer

from nas_optuna.cli import options
from nas_optuna.cli.printing import print_json, print_table, say


def register(parent: typer.Typer) -> None:
    """Add the command."""
    parent.command(epilog="Example: nas-optuna devices --json")(devices)


def devices(json: options.Json = False) -> None:
    """List every GPU with its memory and capability, or say that there is none; and the CPU."""
    from nas_optuna.devices import list_devices

    found = list_devices()
    if json:
        print_json([asdict(device) for device in found])
        return
    rows = [(d.device, d.name, f"{d.memory_bytes / 2**30:.1f} GiB", d.capability) for d in found]
    print_table("devices", ("device", "name", "memory", "capability"), rows, right=(2,))
    if len(found) == 1:
        say("There is no GPU here: networks are trained on the CPU.")
