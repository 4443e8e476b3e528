"""A supernet as part of a study: trained on the study's images, resumed, and found again by every worker."""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from nas_optuna.costs.limits import Limits
from nas_optuna.costs.study_costs import StudyCosts
from nas_optuna.data import BatchLoader, ImageSet, make_loader, split
from nas_optuna.digests import hex_digest
from nas_optuna.errors import ArchitectureError, StudyError, TrainingError
from nas_optuna.execution.evaluator import Measurement
from nas_optuna.execution.events import Callback, Callbacks, OptunaCallback, Run, Subject
from nas_optuna.execution.search import Search
from nas_optuna.oneshot.bilevel import BilevelSearch, require_honourable
from nas_optuna.oneshot.choosing import Chooser, Found
from nas_optuna.oneshot.fair import FairTraining, default_epochs
from nas_optuna.oneshot.price import CostTable, Price, measure_price, supernet_precision
from nas_optuna.oneshot.progress import Epoch
from nas_optuna.oneshot.shared import SharedEvaluator
from nas_optuna.oneshot.short_trainings import ShortPlan, ShortTrainer
from nas_optuna.oneshot.supernets import supernet_for
from nas_optuna.randomness import seeded
from nas_optuna.samplers.prior import read_alphas, read_chunks, write_alphas, write_chunks, write_score
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.layers import kaiming
from nas_optuna.spaces.supernet import Supernet
from nas_optuna.spec import SupernetSpec
from nas_optuna.study.hints import command
from nas_optuna.study.schema import StudyKey, TrialKey, attribute
from nas_optuna.study.studies import checkpoint_folder
from nas_optuna.training import Checkpoint, CheckpointFolder
from nas_optuna.training.soundness import require_number, require_tensors

SCORED_IMAGES = 500
"""The most held-out images that shared weights are scored on: twice as many rank hardly better, in twice the time."""


def measured(epoch: Epoch) -> Measurement:
    """What one epoch of a supernet brought, as callbacks are told of it.

    Its metrics are ``train_loss``, ``train_accuracy`` and ``gradient_norm``; ``alpha_loss``, ``temperature`` and
    ``expected_cost`` where the strategy has them; and ``entropy/NAME`` in nats for each parameter.
    """
    optional = {"alpha_loss": epoch.alpha_loss, "temperature": epoch.temperature, "expected_cost": epoch.cost}
    metrics = {
        "train_loss": epoch.loss,
        "train_accuracy": epoch.accuracy,
        "gradient_norm": epoch.gradient_norm,
        **{name: value for name, value in optional.items() if value is not None},
        **{f"entropy/{name}": value for name, value in epoch.entropy.items()},
    }
    return Measurement(epoch.number, metrics, epoch.seconds)


def make_supernet(search: Search, spec: SupernetSpec, device: torch.device) -> Supernet:
    """The space's supernet with initial weights and alphas that depend on the settings and the seed alone.

    Raises:
        SpecError: The space has none.
    """
    with seeded(spec.seed):
        supernet = supernet_for(search.space, alpha_init=spec.alpha_init, **spec.options)
        if search.spec.recipe.init == "kaiming" and search.space.draws_weights:
            supernet.apply(kaiming)
        if spec.strategy == "fair":
            supernet.calm()
    return supernet.to(device).to(memory_format=torch.channels_last)


def require_supernet(search: Search, spec: SupernetSpec, table: CostTable, device: torch.device) -> None:
    """Refuse, before a study is created for it, what no supernet can be trained for.

    Raises:
        SpecError: The space has no supernet, or it cannot have a setting.
        DataError: There are too few images to halve.
    """
    supernet = make_supernet(search, spec, device)
    if spec.strategy != "fair":
        require_honourable(spec, supernet, table.costs)
        if spec.update != "joint":
            split(search.data.train, 0.5, spec.seed)


def held_by(supernet: Supernet, search: Search) -> Search:
    """The search for what a supernet holds: where some parameters are kept at one choice, a part of the space."""
    return replace(search, space=supernet.space)


def scoring_images(search: Search) -> ImageSet:
    """Held-out images on which shared weights are scored: the validation images, at most `SCORED_IMAGES`."""
    images = search.data.validation
    return images.subset(range(min(len(images), SCORED_IMAGES)))


def make_evaluator(
    supernet: Supernet, search: Search, device: torch.device, dtype: torch.dtype = torch.float32
) -> SharedEvaluator:
    """Shared weights on the study's held-out images."""
    side = search.space.input_size
    held_out = make_loader(scoring_images(search), SCORED_IMAGES, side, device)
    training = make_loader(search.data.train, 256, side, device)
    return SharedEvaluator(supernet, held_out, _FixedOrder(training), dtype)


class _FixedOrder:
    """A loader's images in one shuffled order, so that a path's statistics do not depend on what came before."""

    def __init__(self, loader: BatchLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self._loader.epoch(0)


class SupernetTraining:
    """One supernet's training within a study; it goes on from its last epoch after a kill.

    Args:
        study: The study.
        search: What its spec names.
        spec: The supernet's settings.
        table: What operations cost.
        device: Where to train.
        files: The storage's folder for checkpoints and artifacts.
        restart: Forget an earlier training with the same settings.
        interrupted: Asked between steps.

    Raises:
        SpecError: The space has no supernet, or cannot honour a setting.
        DataError: There are too few images to halve.

    Attributes:
        search: What the study's spec names; its space is the part of it that the supernet holds.
        start: The alphas before the first epoch.
        history: The epochs so far.
        steps: Steps in an epoch.
        price: What an epoch and a stand-alone training cost, where it was measured; see `measure_price`.
    """

    def __init__(
        self,
        study: Study,
        search: Search,
        spec: SupernetSpec,
        table: CostTable,
        device: torch.device,
        files: Path,
        *,
        restart: bool = False,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._study = study
        self._whole = search.space
        self._spec = spec
        self._table = table
        self._device = device
        self._files = files
        self.supernet = make_supernet(search, spec, device)
        self._identity = _identity(search, spec, table, self.supernet.version)
        self._folder = CheckpointFolder(_folder(files, study, self._identity))
        if restart:
            self._folder.remove()
        self._dtype = supernet_precision(search, device)
        self._interrupted = interrupted
        self.search = search = held_by(self.supernet, search)
        self.start = {name: alpha.tolist() for name, alpha in self.supernet.alphas.items()}
        self.history: list[Epoch] = []
        self.price: Price | None = None
        weight_images, alpha_images = self._loaders()
        self.steps = len(weight_images)
        self._optimisation: BilevelSearch | FairTraining
        if spec.strategy == "fair":
            self._optimisation = FairTraining(self.supernet, weight_images, spec, 1, self._dtype, interrupted)
        else:
            self._optimisation = BilevelSearch(
                self.supernet, weight_images, alpha_images, spec, table.costs, self._dtype, interrupted
            )
        if not self._restore() and isinstance(self._optimisation, FairTraining):
            evaluator = make_evaluator(self.supernet, search, device, self._dtype)
            self.price = measure_price(search, self.supernet, spec, device, evaluator)
            self._optimisation.length = self._fair_epochs()

    @property
    def length(self) -> int:
        """Epochs in all."""
        return self._optimisation.length

    @property
    def unit(self) -> str:
        """Unit of the expected cost."""
        return self._table.unit

    @property
    def plan(self) -> ShortPlan:
        """Short trainings that follow the shared weights; none with strategy ``"darts"``."""
        count = self._spec.short_trainings if self._spec.strategy == "fair" else 0
        trained = len(own_accuracies(self._study, self.search))
        return ShortPlan.of(count, self.search.spec.recipe.epochs, self.search.space.size, trained)

    def run(self, callbacks: Sequence[Callback | OptunaCallback] = ()) -> dict[str, Any]:
        """Train what is left, then store alphas, summary and history with the study.

        Strategy ``"fair"`` learns the alphas and looks for the best architecture at the end; the last epoch's record
        then holds these alphas.

        Args:
            callbacks: Told of the training as of one subject, ``"supernet"``, with one step per epoch, see `measured`;
                and of each short training as of a subject of its own.

        Returns:
            The summary; of a training that had ended before, as it is stored.

        Raises:
            TrainingError: Gradients exploded or the search collapsed; what its last good epoch found is stored.
            Interrupted: It was asked to stop; the same call goes on.
        """
        told = Callbacks(callbacks)
        short = ShortTrainer(self.search, self.plan, self._device, self._folder.path, told, self._interrupted)
        run = Run("supernet", self._study, 1, self.length, None, {**self._facts(), "short_steps": short.steps})
        told.run_started(run)
        try:
            return self._run(told, short)
        finally:
            told.run_finished(run)

    def _facts(self) -> dict[str, Any]:
        """What a display needs to know before the first epoch."""
        return {
            "what": f"supernet of space {self.search.space.name}, strategy {self._spec.strategy}",
            "parameters": list(self.supernet.alphas),
            "unit": self.unit,
            "steps_per_epoch": self.steps,
            "epochs_done": len(self.history),
        }

    def _run(self, told: Callback, short: ShortTrainer) -> dict[str, Any]:
        stored = self._study.user_attrs.get(StudyKey.SUPERNET)
        if stored is not None and len(self.history) == self.length and self._chosen_alike(stored):
            return dict(stored)
        subject = Subject("supernet")
        told.trial_started(subject)
        try:
            for epoch in self._optimisation.epochs():
                self.history.append(epoch)
                self._save()
                told.step_finished(subject, measured(epoch))
        except TrainingError as error:
            if not self.history:
                raise
            self._store(None, stopped=error.cause)  # not worth short trainings before the error is said
            raise TrainingError(f"{error}; epoch {len(self.history)} is kept", error.cause) from error
        summary = self._store(short, stopped=None)
        told.trial_finished(subject, None)
        return summary

    def _chosen_alike(self, stored: Mapping[str, Any]) -> bool:
        """Whether a summary is of these weights, and of a choice by these settings."""
        if stored["identity"] != self._identity:
            return False
        of_fair = "finalists" in stored  # a release before short trainings did not say
        settings = SupernetSpec.model_validate(stored["settings"])
        return self._spec.strategy != "fair" or (of_fair and settings.short_trainings == self._spec.short_trainings)

    def _fair_epochs(self) -> int:
        if self._spec.epochs is not None:
            return self._spec.epochs
        if self._spec.budget is not None and self.price is not None:
            return max(1, round(self._spec.budget / self.price.epoch_in_trainings))
        return default_epochs(len(self.search.space.parameters), self.steps)

    def _loaders(self) -> tuple[BatchLoader, BatchLoader | None]:
        images, side = self.search.data.train, self.search.space.input_size
        if self._spec.strategy == "fair" or self._spec.update == "joint":
            return make_loader(images, self._spec.batch_size, side, self._device), None
        halves = split(images, 0.5, self._spec.seed)
        weight, alpha = (make_loader(half, self._spec.batch_size, side, self._device) for half in halves)
        return weight, alpha

    def _save(self) -> None:
        state = self._optimisation.state_dict()
        progress = {"start": self.start, "epochs": [asdict(epoch) for epoch in self.history]}
        self._folder.save(len(self.history), state.pop("supernet"), state, progress)

    def _restore(self) -> bool:
        """Go on from the last sound checkpoint; False where there is none."""
        found = self._folder.load(self._check)
        if found is None:
            return False
        self._optimisation.load_state_dict({**found.state, "supernet": found.weights})
        self.start = found.progress["start"]
        self.history = [Epoch(**epoch) for epoch in found.progress["epochs"]]
        return True

    def _check(self, found: Checkpoint) -> None:
        """Raise where the training cannot go on from a checkpoint."""
        self._optimisation.require_state_dict({**found.state, "supernet": found.weights}, found.epoch)
        _require_logits(found.progress["start"], self.start)
        epochs = [Epoch(**epoch) for epoch in found.progress["epochs"]]
        if [epoch.number for epoch in epochs] != list(range(1, found.epoch + 1)):
            raise ValueError(f"it does not hold the results of {found.epoch} epochs")
        for epoch in epochs:
            _require_logits(epoch.alphas, self.start)
            self.search.space.architecture(epoch.derived)
            for name, value in epoch.entropy.items():
                require_number(f"the entropy of {name}", value)
            numbers = (epoch.loss, epoch.accuracy, epoch.gradient_norm, epoch.seconds)
            optional = (epoch.alpha_loss, epoch.cost, epoch.temperature)
            for value in (*numbers, *(v for v in optional if v is not None)):
                require_number(f"a result of epoch {epoch.number}", value)

    def _store(self, short: ShortTrainer | None, stopped: str | None) -> dict[str, Any]:
        began = time.monotonic()
        evaluator = make_evaluator(self.supernet, self.search, self._device, self._dtype)
        found = self._choose(evaluator, short) if self._spec.strategy == "fair" else None
        argmax = self.search.space.architecture(self.supernet.derive())
        last = self.history[-1]
        seconds = sum(epoch.seconds for epoch in self.history) + time.monotonic() - began
        seconds += short.seconds_before if short else 0.0
        summary = {
            "strategy": self._spec.strategy,
            "argmax": str(argmax),
            "shared_accuracy": round(evaluator([argmax])[0].accuracy, 4),
            "epochs": len(self.history),
            "seconds": round(seconds, 2),
            "mean_entropy": round(sum(last.entropy.values()) / len(last.entropy), 4),
            "expected_cost": None if last.cost is None else round(last.cost, 5),
            "unit": self._table.unit,
            "costs": self._table.source,
            "stopped": stopped,
            "identity": self._identity,
            "version": self.supernet.version,
            "artifact": self._upload_history(),
            "settings": self._spec.model_dump(mode="json"),
        }
        if found is not None:
            summary |= {
                "best": str(found.best),
                "best_shared_accuracy": round(found.best_figures.accuracy, 4),
                "score": found.score.to_dict(),
                "score_trials": found.score.trials,
                "score_short_trainings": found.score.short,
                "finalists": found.finalists,
                "teacher_chunks": write_chunks(self._study, StudyKey.TEACHERS, [[*t, a] for t, a in found.teachers]),
                "score_evaluations": found.evaluations,
                "predictor_spearman": round(found.fidelity, 3),
                **write_score(self._study, found.predictor, found.starts),
            }
        write_alphas(self._study, self.supernet.alphas_of(self._whole), summary)
        return summary

    def _choose(self, evaluator: SharedEvaluator, short: ShortTrainer | None) -> Found:
        """Learn the alphas and keep them: in the supernet, in the last epoch's record and on disk."""
        own = own_accuracies(self._study, self.search)
        excess = limits_of(self.search, self._device)
        found = Chooser(self.search.space, evaluator, self._spec, self._table.costs, excess, own, short).choose()
        with torch.no_grad():
            for name, alpha in self.supernet.alphas.items():
                alpha.copy_(torch.tensor(found.logits[name]))
        cost = self.supernet.expected_cost(self._table.costs).item()
        self.history[-1] = replace(
            self.history[-1],
            alphas={name: alpha.tolist() for name, alpha in self.supernet.alphas.items()},
            entropy=self.supernet.entropy(),
            derived=self.supernet.derive(),
            cost=cost,
        )
        self._save()
        return found

    def _upload_history(self) -> str:
        """Every epoch's figures, and each choice's probability, as a CSV that the dashboard shows."""
        parameters = self.search.space.parameters
        columns = [f"{name}={choice}" for name, p in parameters.items() for choice in p.choices]
        figures = ("number", "loss", "accuracy", "alpha_loss", "gradient_norm", "temperature", "cost", "seconds")
        store = self._files / "artifacts"
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "supernet-history.csv"
            with file.open("w", newline="", encoding="utf-8") as opened:
                writer = csv.writer(opened)
                writer.writerow([*figures, *columns])
                for epoch in self.history:
                    p = [x for logits in epoch.alphas.values() for x in _softmax(logits)]
                    writer.writerow([*(getattr(epoch, name) for name in figures), *(f"{x:.5f}" for x in p)])
            return upload_artifact(
                artifact_store=FileSystemArtifactStore(store), file_path=str(file), study_or_trial=self._study
            )


def checked_chooser(
    study: Study, search: Search, supernet: Supernet, device: torch.device, ranked: Sequence[Architecture]
) -> Chooser:
    """Return the chooser of a trained supernet whose score has learned from short trainings, not yet from trials.

    Args:
        study: Remembers the training.
        search: What its spec names.
        supernet: Its trained supernet.
        device: Where the supernet is.
        ranked: What the score is to rank: short trainings of these teach it nothing.
    """
    _, summary = read_alphas(study)
    spec = SupernetSpec.model_validate(summary["settings"])
    made = Chooser(search.space, make_evaluator(supernet, search, device), spec, {}, limits_of(search, device))
    teachers = read_chunks(study.user_attrs, StudyKey.TEACHERS, summary.get("teacher_chunks", 0))
    kept = {search.space.tokens(architecture) for architecture in ranked}
    made.learn_short([(tuple(tokens), float(accuracy)) for *tokens, accuracy in teachers if tuple(tokens) not in kept])
    return made


def limits_of(search: Search, device: torch.device) -> Callable[[Architecture], float]:
    """How far an architecture is above the study's limits; inside at 0."""
    wanted = search.spec.limits
    costs = StudyCosts(search.space, device, limited=list(wanted), latency=search.spec.latency)
    limits = Limits(wanted, costs, search.space)
    return limits.total_excess if limits else lambda architecture: 0.0


def own_accuracies(study: Study, search: Search) -> dict[Architecture, float]:
    """The study's own trainings to the end by its recipe: architecture → validation accuracy, 0 … 1."""
    found = {}
    for text, trial in trained_trials(study, search).items():
        with suppress(ArchitectureError):  # outside what the supernet holds
            found[search.space.parse(text)] = accuracy_of(trial)
    return found


def trained_trials(study: Study, search: Search) -> dict[str, FrozenTrial]:
    """Architecture → the complete trial of it by the study's recipe that was trained, not reused."""
    fingerprint = search.spec.recipe.fingerprint
    return {
        attribute(trial, TrialKey.ARCHITECTURE): trial
        for trial in reversed(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        if attribute(trial, TrialKey.RECIPE) == fingerprint and attribute(trial, TrialKey.DUPLICATE_OF) is None
    }


def accuracy_of(trial: FrozenTrial) -> float:
    """The last accuracy of a complete trial, whatever the study's objectives."""
    accuracy = attribute(trial, TrialKey.ACCURACY)
    if accuracy is None:
        assert trial.last_step is not None
        accuracy = trial.intermediate_values[trial.last_step]
    return float(accuracy)


def trained_supernet(study: Study, search: Search, device: torch.device, files: Path) -> Supernet:
    """The study's supernet with the weights that its training left behind.

    Raises:
        StudyError: The study has no trained supernet, an earlier release trained it, or its weights are on another
            machine.
    """
    _, summary = read_alphas(study)
    folder = _folder(files, study, summary["identity"])
    with seeded(0):
        supernet = supernet_for(search.space, **summary["settings"].get("options", {}))
    if summary.get("version", 1) != supernet.version:
        raise StudyError(
            f"the supernet of study {study.study_name!r} was trained by another release, which computes otherwise with"
            f" its weights; train it anew: {command(study, 'supernet', 'train', '--study', study.study_name)}"
        )
    supernet = supernet.to(device).to(memory_format=torch.channels_last)
    found = CheckpointFolder(folder).load(lambda found: require_tensors(found.weights, supernet.state_dict()))
    if found is None:
        raise StudyError(
            f"the weights of the supernet of study {study.study_name!r} are not in {folder}; run this where it was"
            f" trained, or run: {command(study, 'supernet', 'train', '--study', study.study_name)}"
        )
    supernet.load_state_dict(found.weights)
    return supernet


def _identity(search: Search, spec: SupernetSpec, table: CostTable, version: int) -> str:
    """Twelve hex digits that differ whenever the shared weights would."""
    said = search.spec.to_dict()
    parts = [said["data"], said["space"], said["recipe"]["input_size"], said["recipe"]["init"], dict(table.costs)]
    parts += [version] if version > 1 else []  # the first had no number
    # Short trainings come after the weights, which need not be trained again for others of them.
    settings = {name: value for name, value in spec.settings.items() if name != "short_trainings"}
    text = json.dumps([*parts, settings], sort_keys=True)
    return hex_digest(text, 12, "sha256")


def _folder(files: Path, study: Study, identity: str) -> Path:
    return checkpoint_folder(files, study.study_name) / f"supernet-{identity}"


def _require_logits(found: Mapping[str, list[float]], wanted: Mapping[str, list[float]]) -> None:
    if {name: len(logits) for name, logits in found.items()} != {name: len(logits) for name, logits in wanted.items()}:
        raise ValueError("its alphas are of another space")
    for name, logits in found.items():
        for value in logits:
            require_number(f"an alpha of {name}", value)


def _softmax(logits: list[float]) -> list[float]:
    return torch.tensor(logits).softmax(0).tolist()
