"""``nas-optuna fit``, ``retrain`` and ``export``: to a trained network, and to files that work without this package."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from nas_optuna.cli import options
from nas_optuna.cli.options import MovedStudyOptions, option
from nas_optuna.cli.printing import print_facts, print_json, print_table, refuse_stdout, require_writable, say, say_next
from nas_optuna.cli.run_options import SpecOptions
from nas_optuna.devices import use_threads
from nas_optuna.errors import SpecError, StudyError
from nas_optuna.lazily import lazily
from nas_optuna.quantities import plural

with lazily():
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from torch import nn

    from nas_optuna import hyperparameters, presets
    from nas_optuna.cli.progress import FitDisplay, RetrainingDisplay, bars
    from nas_optuna.data import ImageSet
    from nas_optuna.execution import finished_network
    from nas_optuna.execution import retrain as retraining
    from nas_optuna.execution.evaluator import Search
    from nas_optuna.execution.loop import StopRequest, interruptible
    from nas_optuna.export import export_network
    from nas_optuna.export.int8 import EightBits, Int8Export
    from nas_optuna.fitting import Fitted, clock
    from nas_optuna.fitting import spec as fit_spec
    from nas_optuna.fitting.pretrained import may_begin_pretrained
    from nas_optuna.fitting.run import Fit
    from nas_optuna.fitting.winner import trained_file
    from nas_optuna.report import confusion, drawing, facts, notes
    from nas_optuna.spec import StudySpec
    from nas_optuna.study import files as study_files
    from nas_optuna.study import studies, transactions
    from nas_optuna.study.significance import Measured
    from nas_optuna.trackers import create_trackers
    from nas_optuna.training import make_header, save_network
    from nas_optuna.training.serialization import loading_call


@dataclass(frozen=True)
class FitOptions(SpecOptions):
    """What a command line says about the spec of a fit; what the clock decides is refused, and so not offered."""

    pruner: Annotated[str | None, option("", hidden=True)] = None
    epochs: Annotated[int | None, option("", hidden=True), "recipe.epochs"] = None
    search: Annotated[list[str] | None, option("", hidden=True)] = None
    keep_paused: Annotated[str | None, option("", hidden=True), "keep_paused"] = None


def fit(
    given: FitOptions,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder of pictures, a .npz file, or a name such as mnist.")
    ],
    within: Annotated[str, option("The time for everything, such as 90s or 2h (default: 10m).", "TIME")] = "10m",
    out: Annotated[Path, option("Where everything is written (default: model).", "DIR")] = Path("model"),
    device: options.Device = "auto",
    threads: Annotated[int | None, option("CPU threads (default: OMP_NUM_THREADS, else all cores).", "N")] = None,
    data_dir: options.DataDir = None,
    json: options.Json = False,
) -> None:
    """Find, train and test a network for your pictures in the time that you have, and export it.

    A search gives many networks a little of the time and the best of them more, always with the space's reference
    network among them; the best is trained on all training images for the rest. Where pretrained weights are
    installed, all begin with them if they help on these pictures. Ctrl-C leaves the best of the search, and the same
    command goes on.
    """
    refuse_stdout(out)
    given.refuse_twice()
    say(f"nas-optuna fit: a network for {data} within {within}")
    if threads is not None:
        use_threads(threads)
    budget = clock.TimeBudget(clock.parse_duration(within), began=options.began)
    clock.refuse_named(given.overrides, pruner=given.pruner)
    spec, pretrained = _spec_of(given, data_dir), None
    if given.spec is None and may_begin_pretrained(spec, given.space, given.overrides):
        pretrained = _spec_of(replace(given, space="backbone"), data_dir)
    with bars() as shown:
        display = FitDisplay(budget, shown)
        job = Fit(spec, budget, out, device, data_dir, display.say, callbacks=[display], pretrained=pretrained)
        fitted = job.run()
    _print_fitted(fitted, json=json)


def _spec_of(given: FitOptions, data_dir: Path | None) -> StudySpec:
    """The spec that `nas_optuna.fit` makes of the same settings."""
    usual = [] if given.spec else fit_spec.usual_settings(given.space)
    name = given.spec or fit_spec.preset_for(given.space)
    file = presets.find_spec(name)
    # The sampler of a preset is that of longer trainings.
    chosen = "auto" if presets.is_shipped(file) else StudySpec.from_toml(file).sampler.name
    sampler = given.sampler or (fit_spec.SAMPLER if chosen == "auto" else chosen)
    taken = replace(given, spec=name, sampler=sampler, set_=[*usual, *(given.set_ or ())])
    return fit_spec.with_few_to_select(taken.read(), given.overrides, data_dir)


def _print_fitted(fitted: Fitted, *, json: bool) -> None:
    report, gain = fitted.report, fitted.gain
    if json:
        told = {"folder": str(fitted.folder), "seconds": round(fitted.seconds, 1), "facts": dict(fitted.facts)}
        print_json(report.to_dict() | told | {"validation": gain.to_dict() if gain else None})
        return
    tested = f"{Measured.on_test(report.figures()).exact} on {report.test_images:,} images, looked at once"
    rows = [
        ("test accuracy", tested),
        *([("on validation", str(gain))] if gain else []),  # unknown unless an accuracy is the objective
        *fitted.facts.items(),
        ("architecture", report.architecture),
        ("time", f"{fitted.seconds:.0f} s"),
        ("network", str(fitted.folder / "network")),
        ("report", str(fitted.folder / "report.html")),
    ]
    print_facts("fitted", rows)
    say(*(gain.remarks() if gain else ()))
    script = fitted.folder / "network" / "model.py"
    if script.is_file():
        say_next([(f"python {shlex.quote(str(script))} PICTURE", "name the class of a picture")])


CLASSES = 10
"""The most classes that are listed, worst first."""


def retrain(
    stored: MovedStudyOptions,
    trial: options.Trial = "best",
    epochs: Annotated[int | None, option("Epochs of the training, if not the recipe's.", "N")] = None,
    seeds: Annotated[int, option("Train with this many seeds (default: 1).", "K", min=1)] = 1,
    out: Annotated[Path | None, option("File for the network (default: STUDY-trial-N.safetensors).", "FILE")] = None,
    device: options.Device = "auto",
    track: options.Track = None,
    json: options.Json = False,
) -> None:
    """Train a trial's architecture on training and validation images together, and report its test figures.

    The saved file is of the first seed. Ctrl-C keeps the last epoch; the same command goes on from there.
    """
    experiment, study = stored.experiment([] if epochs is None else [f"recipe.epochs={epochs}"], device=device)
    chosen = facts.StudyFacts(study).choose(trial)
    # A trial may have chosen its recipe, too.
    recipe = hyperparameters.applied(experiment.search.spec.recipe, chosen.params)
    search = replace(experiment.search, spec=experiment.search.spec.model_copy(update={"recipe": recipe}))
    architecture = search.space.architecture(hyperparameters.of_architecture(chosen.params))
    path = out or _file_of(study, chosen)
    files = stored.files(study)
    require_writable(path)
    if path.is_dir():
        raise SpecError(f"{path} is a folder; give a file with --out")
    study_files.remember(study, stored.url)
    transactions.require_writable(study)
    checkpoints = studies.checkpoint_folder(files, stored.study)
    stop = StopRequest()
    say(f"{stored.study}: retraining trial {chosen.number}, {architecture}")
    with bars(time_left=True) as shown, interruptible(stop):
        trained = retraining.retrain(
            study,
            search,
            architecture,
            seeds=seeds,
            device=device,
            data_directory=stored.data_dir,
            checkpoints=checkpoints,
            interrupted=stop,
            callbacks=[RetrainingDisplay(shown), *create_trackers(track)],
        )
    report, looks = trained[0], _remember(study, chosen, search, trained, path, files / "artifacts")
    retraining.remove_checkpoints(study, architecture, recipe, checkpoints)
    if json:
        print_json(report.to_dict() | {"trial": chosen.number, "file": str(path), "earlier_looks": looks})
    else:
        print_facts("test figures", facts.retrained_figures(report.figures()))
        print_confusions(report)
    which = ("--trial", str(chosen.number), *(() if out is None else ("--network", str(path))), "--out", "exported")
    export = studies.command(study, "export", "--study", stored.study, *which)
    _say_what_next(path, search.spec, looks, export)


def _file_of(study: Study, chosen: FrozenTrial) -> Path:
    """Where retrain writes a trial's network, and export looks for it."""
    return Path(f"{studies.file_name(study.study_name)}-trial-{chosen.number}.safetensors")


def _remember(
    study: Study,
    chosen: FrozenTrial,
    search: Search,
    trained: tuple[retraining.TestReport, nn.Module, ImageSet],
    path: Path,
    store: Path,
) -> int:
    """Save the network, keep its figures with the study and its files for the dashboard."""
    report, network, images = trained
    architecture = search.space.parse(report.architecture)
    origin = finished_network.origin_of(study, chosen, report)
    save_network(path, network, make_header(architecture, search.spec, images, origin))
    looks = retraining.record(study, report, chosen.number)
    try:
        notes.note_retraining(study, chosen, store, path, report)
    except OSError as error:  # the network and its figures are kept
        say(f"optuna-dashboard does not show this retraining: its files cannot be kept in {store} ({error.strerror})")
    return looks


def _say_what_next(path: Path, spec: StudySpec, looks: int, export: str) -> None:
    if spec.data.select_on == "test":
        say("The test images ranked the networks of this study: expect a little less on new images.")
    elif looks:
        say(f"This study's test set was looked at {plural(looks, 'time')} before: do not choose by these figures.")
    say(
        f"saved {path}; in Python:",
        f"    network = {loading_call(spec.space.name, str(path))}",
        "    network.predict(images)  # pictures, or uint8 [n, channels, height, width]",
    )
    say_next([(export, "take it away: source, ONNX, torch.export")])


def print_confusions(report: retraining.TestReport) -> None:
    """Print the classes with the lowest accuracy, each with its most frequent wrong prediction."""
    found = confusion.Confusion.of(report).accuracies()[:CLASSES]
    seeds = "" if len(report.seeds) == 1 else f", mean of {len(report.seeds)} seeds"
    some = "" if len(found) == len(report.classes) else f", the worst {len(found)} of {len(report.classes)}"
    print_table(f"test accuracy of each class{some}{seeds}", confusion.CLASS_COLUMNS, found)
    say("the whole confusion matrix of each seed: --json")


def export(
    out: Annotated[Path, option("A new or empty folder.", "DIR")],
    stored: MovedStudyOptions,
    trial: options.Trial = "best",
    network: Annotated[Path | None, option("The file that retrain wrote for it.", "FILE")] = None,
    int8: Annotated[
        bool, option("Also write model.int8.onnx, and measure what eight bits cost and bring.", None, "--int8")
    ] = False,
    json: options.Json = False,
) -> None:
    """Write a trial's network as PyTorch source, ONNX, torch.export program and weights.

    The weights are those that retrain wrote for this trial (STUDY-trial-N.safetensors in this folder, or --network), or
    that fit has trained last, or else those that were kept of it; their test accuracy is what the file itself says. All
    files are compared on 100 images before they are put in place.
    """
    refuse_stdout(out)
    experiment, study = stored.experiment(device="cpu")
    if experiment.data is None:
        raise SpecError(
            f"study {stored.study!r} trains with an evaluator of its own, so nas-optuna does not know its weights;"
            " export them in your own code with nas_optuna.export.export_network"
        )
    search, chosen = experiment.search, facts.StudyFacts(study).choose(trial)
    found, data = _found(study, search, chosen, network, stored.url), search.data
    held_out = data.validation
    if int8 and found.retrained:  # on training and validation images
        held_out = experiment.test_images
    exported = export_network(
        found.classifier,
        out,
        data.validation.images,
        title=f"{data.title}: {found.classifier.architecture}",
        facts=found.facts,
        drawing=drawing.draw_trial(search.space, chosen).svg,
        eight_bits=EightBits(data.train.images, held_out.images, held_out.labels) if int8 else None,
        say=say,
    )
    if json:
        print_json({"trial": chosen.number, **exported.to_dict()})
        return
    differ = f"differ by at most {exported.difference:.1e}"
    say(
        f"exported trial {chosen.number} to {out}: {', '.join(exported.files)}",
        *exported.omissions,
        *([f"Their logits {differ} on {exported.images} images."] if exported.images else []),
        *(f"{name}: {fact}" for name, fact in found.facts.items()),
    )
    if exported.int8:
        _print_int8(exported.int8, "test" if found.retrained else search.spec.data.select_on)


def _found(
    study: Study, search: Search, chosen: FrozenTrial, network: Path | None, url: str
) -> finished_network.FinishedNetwork:
    """The network of a trial, from a named file or from where retrain, fit and run keep them."""
    retrained = network or _file_of(study, chosen)
    if network is not None or retrained.is_file():
        found = finished_network.retrained_network(study, search, chosen, retrained)
        if network is None and found.classifier.header.origin is None:
            raise StudyError(
                f"{retrained} does not say of which study and trial it is, as files of nas-optuna 0.2 do not; if you"
                f" know that it is this trial's, name it: --network {retrained}"
            )
        return found
    if trained := trained_file(study, chosen, url):
        return finished_network.retrained_network(study, search, chosen, trained, by="fit")
    return finished_network.kept_network(study, search, chosen)


def _print_int8(small: Int8Export, said: str) -> None:
    print_table(
        f"eight bits: {said} accuracy on {small.images:,} images, and one image on this machine with one thread",
        ("", "accuracy", "size", "latency"),
        [
            (name, f"{f.accuracy:.4f}", f"{f.bytes / 1024:,.0f} KiB", f"{f.latency_ms:.3f} ms")
            for name, f in (("model.onnx", small.fp32), ("model.int8.onnx", small.int8))
        ],
    )
    if small.culprit:
        say(f"Most of what is lost is lost in layer {small.culprit}.")
