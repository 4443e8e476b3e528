"""The steps of a fit; each is skipped if an earlier run of the same fit has done it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from optuna.study import Study
from optuna.trial import FrozenTrial

from nas_optuna.data import ImageSet
from nas_optuna.errors import Interrupted, SpecError, StudyError, checked, named
from nas_optuna.execution.events import Callback, Callbacks, OptunaCallback
from nas_optuna.execution.finished_network import kept_network, origin_of
from nas_optuna.execution.loop import StopRequest, interruptible
from nas_optuna.execution.reference import require_training
from nas_optuna.execution.retrain import TestReport, record, retrain
from nas_optuna.experiment import Experiment
from nas_optuna.export import Exported, export_network
from nas_optuna.export.int8 import EightBits
from nas_optuna.files import write_file
from nas_optuna.fitting.clock import Load, Plan, Progress, TimeBudget, parse_duration, refuse_undivided
from nas_optuna.fitting.equal_seconds import last_trainings, stages_of, time_network, time_reference
from nas_optuna.fitting.inputs import (
    DATABASE,
    NETWORK,
    PAGE,
    TRAINED,
    WEIGHTS,
    in_a_folder,
    is_whole,
    name_of,
    own_folder,
    require_own_folder,
)
from nas_optuna.fitting.pretrained import may_begin_pretrained
from nas_optuna.fitting.rungs import RungSearch, last_rung, plan_for
from nas_optuna.fitting.spec import advice, decided_before, larger_space, new_experiment, spec_for
from nas_optuna.fitting.winner import Fitted, Winner, report_of, require_known_limits, winner_of
from nas_optuna.metrics import find_metric
from nas_optuna.report.drawing import draw
from nas_optuna.report.facts import StudyFacts
from nas_optuna.report.notes import NoteWriter, write_study_note
from nas_optuna.report.page import report as page_of
from nas_optuna.spec import StudySpec
from nas_optuna.study.files import folders
from nas_optuna.study.results import best_trial
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.significance import Measured
from nas_optuna.study.storage import open_storage, sqlite_url
from nas_optuna.study.studies import checkpoint_folder, load_study, require_same_spec, study_names, study_spec
from nas_optuna.training import ImageClassifier, load_network
from nas_optuna.training.checkpoint import KeptWeights
from nas_optuna.training.serialization import make_header, save_network

STUDY = "fit"


def to_stderr(line: str) -> None:
    """Print a line to stderr."""
    print(line, file=sys.stderr, flush=True)


@checked
def fit(
    data: Any,
    within: str | float = "10m",
    out: str | Path = "model",
    *,
    space: str | None = None,
    sampler: str | None = None,
    max_params: str | float | None = None,
    max_latency: float | None = None,
    seed: int = 0,
    device: str = "auto",
    overrides: Sequence[str] = (),
    say: Callable[[str], None] = to_stderr,
    callbacks: Sequence[Callback | OptunaCallback] = (),
) -> Fitted:
    """Find, train and test a network for pictures, within a time.

    A search gives many networks a little of the time and the best of them more; the best one is then trained on all
    training images for the rest, tested once, and exported. The space's reference network is always among them. A
    repeated call continues an interrupted one.

    Args:
        data: A folder of pictures with one folder for each class, a ``.npz`` file, the name of a data set such as
            ``"mnist"``, a pair ``(images, labels)`` of arrays, tensors or PIL images, a dictionary of arrays with the
            names that an ``.npz`` file may have, an `ImageSet`, or a torch ``Dataset``.
        within: The time for everything, such as ``"90s"``, ``"10m"`` or ``"2h"``; a number is seconds.
        out: The folder for all output.
        space: Name of the search space; by default one of good networks for images, or ``"backbone"`` if pretrained
            weights are installed and ahead on these pictures in a short comparison.
        sampler: Name of the sampler.
        max_params: The most weights that the network may have, such as ``"100k"``.
        max_latency: The most milliseconds that one inference may take on this machine.
        seed: Seed of the sampler's proposals.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        overrides: Further keys of the study spec, such as ``"recipe.flip=true"``.
        say: Called with lines that say what is being done.
        callbacks: Callbacks that are told of each training and step.

    Raises:
        DataError: The pictures cannot be used.
        SpecError: An argument is refused.
        StudyError: The folder holds another fit.
        Interrupted: Somebody pressed Ctrl-C; the best network of the search has been exported.

    Examples:
        ::

            fitted = nas_optuna.fit("photos/", within="10m", out="model/")
            fitted.predict("new.jpg")
    """
    limits = {"params": max_params, "latency_ms": max_latency}
    _ = Callbacks(callbacks)  # refuses what is no list before the time begins
    budget, folder = TimeBudget(parse_duration(within, "within")), Path(out)
    require_own_folder(folder, begun=False)  # before images are written into it
    make = partial(spec_for, name_of(data, folder), sampler=sampler, limits=limits, seed=seed, overrides=overrides)
    spec = make(space=space)
    pretrained = make(space="backbone") if may_begin_pretrained(spec, space, overrides) else None
    return Fit(spec, budget, folder, device=device, say=say, callbacks=callbacks, pretrained=pretrained).run()


@dataclass
class Fit:
    """One fit, from spec to exported network; see `fit`."""

    spec: StudySpec
    budget: TimeBudget
    folder: Path
    device: str = "auto"
    data_directory: Path | None = None
    say: Callable[[str], None] = to_stderr
    callbacks: Sequence[Callback | OptunaCallback] = ()
    pretrained: StudySpec | None = None  # taken instead of the spec if the data say so
    stop: StopRequest = field(default_factory=StopRequest)
    load: Load = field(default_factory=Load)

    def run(self) -> Fitted:
        """Do all remaining steps; see `fit`."""
        if not self.spec.trains:
            raise SpecError("fit trains by a recipe, and the spec names an evaluator of its own; use run")
        if self.spec.data.select_on == "test":
            raise SpecError("fit tests its network once, so test images must not select; leave out data.select_on")
        refuse_undivided(self.spec)
        require_known_limits(self.spec)
        with own_folder(self.folder):
            return self._run()

    def _run(self) -> Fitted:
        require_own_folder(self.folder, begun=False)
        url = sqlite_url(self.folder / DATABASE)
        with in_a_folder():
            storage = open_storage(url, create=True)
            study = load_study(storage, STUDY) if STUDY in study_names(storage) else None
        state = {} if study is None else dict(study.user_attrs.get(StudyKey.FIT, {}))
        self.budget.spent += state.get("spent", 0.0)
        if study is not None:
            self.spec = decided_before(self.spec, study_spec(study), self.pretrained)
            self._require_same(study, images=bool(state.get("done")))
            if state.get("done") and is_whole(self.folder):
                again = "what you delete of it is written again, and another folder begins anew"
                self.say(f"{named(self.folder)} holds the finished network; {again}")
                return self._fitted(study)
        require_own_folder(self.folder, begun=True)
        with interruptible(self.stop):
            return _Running.begin(self, storage, study, state, url).run()

    def _require_same(self, study: Study, *, images: bool) -> None:
        """Refuse another spec, and other images if nothing else reads them."""
        with in_a_folder():
            require_same_spec(study, self.spec)
            if images:
                Experiment.of_study(study, self.spec, data_directory=self.data_directory, device=self.device)

    def _fitted(self, study: Study) -> Fitted:
        winner = winner_of(study, StudyFacts(study).space, self.spec.reference)
        network = load_network(self.folder / WEIGHTS, space=winner.space)
        report = report_of(study)
        if report is None:
            raise StudyError("the network was not tested yet")
        facts = study.user_attrs[StudyKey.FIT].get("facts", {})  # of earlier fits they were not stored
        return Fitted(network, report, study, winner.gain(study), self.folder, self.budget.spent, facts)


@dataclass
class _Running:
    """A fit with loaded pictures and an open study."""

    fit: Fit
    experiment: Experiment
    study: Study
    progress: Progress
    files: Path
    images: ImageSet
    test_images: ImageSet

    @classmethod
    def begin(cls, fit: Fit, storage: Any, study: Study | None, state: dict[str, Any], url: str) -> _Running:
        """Load the pictures, and create the study or open it."""
        files = folders(url)[-1]  # beside its database: in a named folder, fits would share the place of study `fit`
        fit.say(f"reading {fit.spec.data.name}")
        settings: dict[str, Any] = {
            "data_directory": fit.data_directory,
            "device": fit.device,
            "checkpoints": checkpoint_folder(files, STUDY),
            "interrupted": fit.stop,
            "keep_weights": True,
        }
        if study is None:
            experiment = new_experiment(fit.spec, fit.pretrained, fit.budget, fit.say, **settings)
            fit.spec = experiment.spec
        else:
            with in_a_folder():
                experiment = Experiment.of_study(study, fit.spec, **settings)
        data = experiment.search.data
        images = replace(
            data.train,
            images=torch.cat((data.train.images, data.validation.images)),
            labels=torch.cat((data.train.labels, data.validation.labels)),
        )
        # Read now, so that a damaged test part is refused before the search; it is not used until the end.
        tests = experiment.test_images
        study = experiment.create(storage, STUDY) if study is None else study
        progress = Progress(study, StudyKey.FIT, fit.budget, state)
        return cls(fit, experiment, study, progress, files, images, tests)

    def run(self) -> Fitted:
        say, budget = self.fit.say, self.fit.budget
        hints = advice(self.fit.pretrained, self.images, min(self.experiment.space.image_size))
        for line in (self.experiment.describe(within=True), *self.experiment.notes(), *hints):
            say(line)
        try:
            winner, report, classifier = self._finished() or self._made()
        except Interrupted:
            self.progress.remember()
            self._leave_something()
            raise
        limited = self._limited(winner)  # a latency is measured, and would be another one the second time
        facts = {
            "trained": f"on {report.images:,} images within {max(budget.total, budget.elapsed):,.0f} s",
            "test accuracy": f"{Measured.on_test(report.figures()).exact} on {report.test_images:,} images",
        }
        say("writing the network and the report")
        exported = self._export(classifier, winner, facts | limited, self.test_images)
        write_study_note(self.study)
        write_file(self.fit.folder / PAGE, page_of(self.study, self.fit.data_directory))
        told = limited | ({"in eight bits": exported.int8.sentence} if exported.int8 else {})
        self.progress.remember(done=True, facts=told)  # last, so that nothing is missing after a kill
        gain, spent = winner.gain(self.study), self.progress.state["spent"]
        return Fitted(classifier, report, self.study, gain, self.fit.folder, spent, told)

    def _finished(self) -> tuple[Winner, TestReport, ImageClassifier] | None:
        """The network that an earlier run has saved and tested, if only the export is missing."""
        file, report = self.files / TRAINED, report_of(self.study)
        if self.progress.state.get("done") and not file.is_file():
            file = self.fit.folder / WEIGHTS
        if report is None or not file.is_file():
            return None
        winner = winner_of(self.study, self.experiment.space, self.fit.spec.reference)
        return winner, report, load_network(file, space=winner.space)

    def _made(self) -> tuple[Winner, TestReport, ImageClassifier]:
        """Search, train the winner and test it."""
        plan, final, search = self._plan(), self.progress.state.get("final"), self.experiment.search
        if final is None:
            winner = Winner.of(self.study, self._chosen(plan), search, self.fit.device)
        else:
            winner = winner_of(self.study, search.space, self.fit.spec.reference)
        report, network = self._retrained(winner, plan)
        # The user's own reference does not come from a trial.
        architecture, origin = winner.architecture, None if winner.own else origin_of(self.study, winner.trial, report)
        header = make_header(architecture, winner.in_search(search).spec, self.images, origin)
        save_network(self.files / TRAINED, network, header)  # before the record, by which a later run expects it
        self.progress.remember(look=record(self.study, report, None if winner.own else winner.trial.number))
        own = checkpoint_folder(self.files, STUDY)
        for folder in (*own.glob("retrain-*"), *own.glob("trial-*")):  # of settings, too, with which it does not go on
            shutil.rmtree(folder, ignore_errors=True)
        return winner, report, ImageClassifier(network.cpu(), architecture, header).eval()

    def _plan(self) -> Plan:
        """How the time is divided: as decided when the fit began, unless the user gives another time now."""
        same_time = self.progress.state.get("within") == self.fit.budget.total
        if "plan" in self.progress.state and (same_time or "final" in self.progress.state):
            return Plan.from_dict(self.progress.state["plan"])
        left, tests = self.fit.budget.left, len(self.test_images)
        plan = plan_for(self.experiment, left, self.fit.load, test_images=tests)
        self.progress.remember(plan=asdict(plan), first_rung=last_rung(self.study) + 1)
        return plan

    def _chosen(self, plan: Plan) -> FrozenTrial:
        """The trial of the search's best network."""
        notes = NoteWriter(self.experiment.space, self.files / "artifacts")
        callbacks = [notes, *self.fit.callbacks, self.progress]
        first = self.progress.state.get("first_rung", 1)
        earlier = best_trial(self.study) if first > 1 and plan.rungs[0].networks == 1 else None
        if earlier is not None:
            return earlier  # the new time is too short for a search
        budget, work = self.fit.budget, (self.experiment, self.study, plan, self.fit.stop, callbacks)
        search = RungSearch(*work, from_rung=first, kept=self._kept, left=lambda: budget.left)
        seconds = f"{max(budget.left, 0.0):.0f} s"
        self.fit.say(f"{plan.describe()}; what is left of {seconds} then trains the network that is taken")
        found = search.run(self.fit.say)
        if found is None:
            raise Interrupted
        return found

    def _retrained(self, winner: Winner, plan: Plan) -> tuple[TestReport, torch.nn.Module]:
        """The network, trained on all images for the time that is left, and its test figures."""
        evaluator, budget = require_training(self.experiment.objective), self.fit.budget
        final = self.progress.state.get("final")
        timed = time_network(evaluator, winner.architecture, winner.space)
        test = timed.test(len(self.test_images) / evaluator.recipe.batch_size)
        reserve = max(plan.reserve, self.fit.load.reserve(timed.layers) + test)
        weights, least = winner.left_by_the_search(self.study, self._kept, self.fit.spec.reference)
        larger = larger_space(self.fit.spec, self.experiment.search.data, winner.trial, final)
        if final is None:
            teacher = None if larger is None else time_reference(evaluator, larger)
            final = last_trainings(evaluator.recipe, budget.left - reserve, timed, len(self.images), least, teacher)
            final |= {"trial": winner.trial.number, "own": winner.own, "within": budget.total}
            self.progress.remember(final=final | {"trials": len(self.study.get_trials(deepcopy=False))})
        stages = stages_of(final, evaluator.recipe, budget, reserve, larger)
        search = winner.in_search(self.experiment.search)
        begun = "training" if weights is None else "going on with"
        doing = f"{begun} {winner.described(self.study)} on all {len(self.images):,} images"
        late = "" if final["epochs"] else ": too little time is left, so it is taken as the search has left it"
        second = "; then a second network of its kind, which learns from it" if len(stages) > 1 else ""
        self.fit.say(doing + late + ("; before it a larger one, from which it learns" if larger else second))
        report, network, _ = retrain(
            self.study,
            search,
            winner.architecture,
            device=self.fit.device,
            data_directory=self.fit.data_directory,
            checkpoints=checkpoint_folder(self.files, STUDY),
            interrupted=self.fit.stop,
            callbacks=[*self.fit.callbacks, self.progress],
            parts=(self.images if final["epochs"] else search.data.train, self.test_images),
            weights=weights,
            stages=stages,
        )
        return replace(report, architecture=self.fit.spec.reference or "") if winner.own else report, network

    def _export(self, classifier: ImageClassifier, winner: Winner, facts: dict[str, str], unseen: ImageSet) -> Exported:
        data = self.experiment.search.data
        write = partial(
            export_network,
            classifier,
            self.fit.folder / NETWORK,
            data.validation.images,
            title=f"{data.title}: {self.fit.spec.reference if winner.own else winner.architecture}",
            facts=facts,
            drawing=draw(winner.space, winner.architecture).svg,
        )
        exported, metrics = None, [criterion.metric for criterion in self.experiment.objective.criteria]
        if any(find_metric(metric).eight_bits for metric in metrics if metric):
            try:
                exported = write(eight_bits=EightBits(data.train.images, unseen.images, unseen.labels))
            except SpecError as error:  # the trained network must not be lost
                self.fit.say(f"model.int8.onnx was not written: {error}")
        exported = exported or write()
        for line in exported.omissions:
            self.fit.say(line)
        return exported

    def _limited(self, winner: Winner) -> dict[str, str]:
        """The network's costs that are limited; none for the user's own reference, which is of another space."""
        return {} if winner.own else self.experiment.objective.limits.facts(winner.architecture)

    def _leave_something(self) -> None:
        """After an interruption, export the best network of the search, which alone has a figure."""
        best = best_trial(self.study)
        if best is None:
            self.fit.say("no network was trained to its end yet")
            return
        try:
            found = kept_network(self.study, self.experiment.search, best)
            winner, unseen = Winner.known(best, self.experiment.space), self.experiment.search.data.validation
            self._export(found.classifier, winner, found.facts | self._limited(winner), unseen)
        except Exception as error:  # it must not hide the interruption
            self.fit.say(f"the best network of the search could not be written: {str(error) or type(error).__name__}")
        else:
            self.fit.say(f"the best network of the search is in {named(self.fit.folder / NETWORK)}")

    @property
    def _kept(self) -> KeptWeights:
        return KeptWeights(checkpoint_folder(self.files, STUDY))
