"""``nas-optuna fit``: from pictures and minutes to a tested network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.commands import CLOCK
from nas_optuna.cli.options import option
from nas_optuna.cli.printing import print_facts, print_json, refuse_stdout, say, say_next
from nas_optuna.cli.specs import SpecOptions
from nas_optuna.errors import Interrupted

if TYPE_CHECKING:
    from nas_optuna.fitting import Fitted


def fit(
    context: typer.Context,
    given: SpecOptions,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder of pictures, a .npz file, or a name such as mnist.")
    ],
    within: Annotated[str, option("For everything: 90s, 10m, 2h; 10m.", "TIME")] = "10m",
    out: Annotated[Path, option("Where everything is written; model.", "DIR")] = Path("model"),
    device: options.Device = "auto",
    threads: options.Threads = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> int:
    """Find, train and test a network for your pictures in the time that you have, and export it.

    A search gives many networks a little of the time and the best of them more, always with the space's reference
    network among them; the best is trained on all training images for the rest. Ctrl-C leaves the best so far, and the
    same command goes on.
    """
    refuse_stdout(out)
    say(f"nas-optuna fit: a network for {data} within {within}")
    from nas_optuna.devices import use_threads
    from nas_optuna.fitting.clock import TimeBudget, parse_duration, refuse_named
    from nas_optuna.fitting.run import Fit
    from nas_optuna.fitting.spec import SAMPLER, preset_for, with_few_to_select

    if threads is not None:
        use_threads(threads)
    budget = TimeBudget(parse_duration(within), began=CLOCK.began)
    refuse_named(given.overrides, pruner=given.pruner)
    taken = replace(given, spec=given.spec or preset_for(given.space), sampler=given.sampler or SAMPLER)
    spec = with_few_to_select(taken.read(), given.overrides, data_dir)
    from nas_optuna.cli.progress import FitDisplay, bars

    with bars() as shown:
        display = FitDisplay(budget, shown)
        work = Fit(spec, budget, out, device, data_dir, say=display.say, callbacks=[display])
        try:
            fitted = work.run()
        except Interrupted:
            say(f"stopped; the same command goes on: {options.command_line(context)}")
            return 130
    _print(fitted, json=json)
    return 0


def _print(fitted: Fitted, *, json: bool) -> None:
    from nas_optuna.study.significance import accuracy_on_test

    report, gain = fitted.report, fitted.gain
    if json:
        facts = {"folder": str(fitted.folder), "seconds": round(fitted.seconds, 1), "facts": dict(fitted.facts)}
        print_json(report.to_dict() | facts | {"validation": gain.to_dict() if gain else None})
        return
    tested = f"{accuracy_on_test(report.to_dict())} on {report.test_images:,} images, looked at once"
    rows = [
        ("test accuracy", tested),
        ("on validation", str(gain) if gain else ""),
        *fitted.facts.items(),
        ("architecture", report.architecture),
        ("time", f"{fitted.seconds:.0f} s"),
        ("network", str(fitted.folder / "network")),
        ("report", str(fitted.folder / "report.html")),
    ]
    print_facts("fitted", rows)
    for remark in gain.remarks() if gain else ():
        say(remark)
    say_next([(f"python {fitted.folder / 'network' / 'model.py'} PICTURE", "name the class of a picture")])
