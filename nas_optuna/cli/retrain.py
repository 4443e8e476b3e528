"""``nas-optuna retrain``: the chosen architecture, trained in full and scored on the test set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_optuna.cli import options
from nas_optuna.cli.options import TrustedStudyOptions, option
from nas_optuna.cli.printing import (
    print_facts,
    print_json,
    print_table,
    require_writable,
    say,
    say_next,
)
from nas_optuna.errors import Interrupted, SpecError
from nas_optuna.quantities import plural

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial
    from torch import nn

    from nas_optuna.data import ImageSet
    from nas_optuna.execution.retrain import TestReport
    from nas_optuna.execution.search import Search
    from nas_optuna.spaces.architecture import Architecture


CLASSES = 10
"""Classes that are listed, worst first."""


def retrain(
    context: typer.Context,
    stored: TrustedStudyOptions,
    trial: options.Trial = "best",
    epochs: Annotated[int | None, option("Rather than the recipe's.", "N")] = None,
    seeds: Annotated[int, option("Train with this many seeds; 1.", "K", min=1)] = 1,
    out: Annotated[Path | None, option("STUDY-trial-N.safetensors by default.", "FILE")] = None,
    device: options.Device = "auto",
    data: options.MovedData = None,
    track: options.Track = None,
    json: options.Json = False,
) -> int:
    """Train a trial's architecture on training and validation images together, and report its test figures.

    The saved file is of the first seed. Ctrl-C keeps the last epoch; the same command goes on from there.
    """
    from nas_optuna.cli.progress import RetrainingDisplay, bars
    from nas_optuna.execution.loop import StopRequest, interruptible
    from nas_optuna.execution.retrain import retrain as train_and_test
    from nas_optuna.report.selection import choose
    from nas_optuna.study.files import remember
    from nas_optuna.study.studies import checkpoint_folder, command, file_name
    from nas_optuna.trackers import create_trackers

    experiment, study = stored.experiment(data, [] if epochs is None else [f"recipe.epochs={epochs}"], device=device)
    chosen = choose(study, trial, stored.data_dir)
    search, architecture = _chosen_by(experiment.search, chosen.params)
    path, files = out or Path(f"{file_name(stored.study)}-trial-{chosen.number}.safetensors"), stored.files(study)
    require_writable(path)
    if path.is_dir():
        raise SpecError(f"{path} is a folder; give a file with --out")
    remember(study, stored.url)
    stop = StopRequest()
    say(f"{stored.study}: retraining trial {chosen.number}, {architecture}")
    try:
        with bars(time_left=True) as shown, interruptible(stop):
            trained = train_and_test(
                study,
                search,
                architecture,
                seeds=seeds,
                device=device,
                data_directory=stored.data_dir,
                checkpoints=checkpoint_folder(files, stored.study),
                interrupted=stop,
                callbacks=[RetrainingDisplay(shown), *create_trackers(track)],
            )
    except Interrupted:
        say(f"stopped; nothing is lost. Continue: {options.command_line(context)}")
        return 130
    report, looks = trained[0], _remember(study, chosen, search, trained, path, files / "artifacts")
    facts = {"trial": chosen.number, "file": str(path), "earlier_looks": looks}
    print_json(report.to_dict() | facts) if json else _print_report(report)
    which = ("--trial", str(chosen.number), *(() if out is None else ("--network", str(path))))
    _say_what_next(path, looks, command(study, "export", "--study", stored.study, *which, "--out", "model"))
    return 0


def _remember(
    study: optuna.Study,
    chosen: FrozenTrial,
    search: Search,
    trained: tuple[TestReport, nn.Module, ImageSet],
    path: Path,
    store: Path,
) -> int:
    """Save the network, keep its figures with the study and its files for the dashboard."""
    from nas_optuna.execution.finished_network import origin_of
    from nas_optuna.execution.retrain import record
    from nas_optuna.report.notes import note_retraining
    from nas_optuna.training import make_header, save_network

    report, network, images = trained
    architecture = search.space.parse(report.architecture)
    save_network(path, network, make_header(architecture, search.spec, images, origin_of(study, chosen, report)))
    looks = record(study, report, chosen.number)
    note_retraining(study, chosen, store, path, report)
    return looks


def _chosen_by(search: Search, params: dict[str, Any]) -> tuple[Search, Architecture]:
    """A trial's architecture, and the search with the recipe that the trial chose, where that was searched, too."""
    from nas_optuna.hyperparameters import applied, of_architecture

    recipe = applied(search.spec.recipe, params)
    chosen = replace(search, spec=search.spec.model_copy(update={"recipe": recipe}))
    return chosen, search.space.architecture(of_architecture(params))


def _say_what_next(path: Path, looks: int, export: str) -> None:
    if looks:
        say(f"This study's test set was looked at {plural(looks, 'time')} before: do not choose by these figures.")
    say(f"saved {path}; in Python:")
    say(f'    network = nas_optuna.load_network("{path}")')
    say("    network.predict(images)  # pictures, or uint8 [n, channels, height, width]")
    say_next([(export, "take it away: source, ONNX, torch.export")])


def _print_report(report: TestReport) -> None:
    from nas_optuna.report.facts import retrained_figures

    print_facts("test figures", retrained_figures(report.to_dict()))
    print_confusions(report)


def print_confusions(report: TestReport) -> None:
    """Print the classes that were recognised worst, each with what it was most often taken for."""
    from nas_optuna.report.confusion import CLASS_COLUMNS, Confusion

    found = Confusion.of(report).accuracies()[:CLASSES]
    seeds = "" if len(report.seeds) == 1 else f", mean of {len(report.seeds)} seeds"
    some = "" if len(found) == len(report.classes) else f", the worst {len(found)} of {len(report.classes)}"
    print_table(f"test accuracy of each class{some}{seeds}", CLASS_COLUMNS, found)
    say("the whole confusion matrix of each seed: --json")
