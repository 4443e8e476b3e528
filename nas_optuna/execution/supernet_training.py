"""A supernet as part of a study: trained on the study's images, resumed, and found again by every worker."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.study import Study

from nas_optuna.costs.complexity import macs_table
from nas_optuna.costs.latency_table import LatencyTable
from nas_optuna.data import BatchLoader, make_loader, split
from nas_optuna.errors import StudyError, TrainingError
from nas_optuna.execution.search import Search
from nas_optuna.oneshot.bilevel import BilevelSearch, Epoch
from nas_optuna.oneshot.supernets import supernet_for
from nas_optuna.randomness import seeded
from nas_optuna.samplers.prior import read_alphas, top, write_alphas
from nas_optuna.spaces import SearchSpace, require_operations
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.supernet import Supernet
from nas_optuna.spec import SupernetSpec
from nas_optuna.study.schema import StudyKey, study_attribute
from nas_optuna.study.studies import checkpoint_folder
from nas_optuna.training import Checkpoint, CheckpointFolder, evaluate
from nas_optuna.training.network import kaiming
from nas_optuna.training.precision import resolve_precision
from nas_optuna.training.soundness import require_number, require_tensors

ORIGIN = "supernet"
"""Origin of a trial that a supernet's export put into the queue."""


@dataclass(frozen=True)
class CostTable:
    """What each operation of a space costs.

    Attributes:
        costs: ``Operation.key`` → cost in `unit`.
        unit: ``"ms"``, or ``"MMACs"`` for millions of multiply-accumulates.
        source: Where the figures are from, for a person.
    """

    costs: Mapping[str, float]
    unit: str
    source: str


def cost_table(space: SearchSpace, path: str | Path | None) -> CostTable:
    """A space's latency table, or its MACs where there is none.

    A table may be of another device than this one: it is of the device that the network is searched for.

    Raises:
        TableError: The file is no sound latency table, or lacks an operation of the space.
    """
    if path is None:
        return CostTable({key: macs / 1e6 for key, macs in macs_table(space).items()}, "MMACs", "MACs")
    table = LatencyTable.load(Path(path))
    operations = require_operations(space, "a latency table").reachable_operations()
    costs = {operation.key: table.operation_ms(operation) for operation in operations}
    return CostTable(costs, "ms", f"{path}, measured on {table.conditions.device_name}")


def make_supernet(search: Search, spec: SupernetSpec, device: torch.device) -> Supernet:
    """The space's supernet with initial weights and alphas that depend on the settings and the seed alone.

    Raises:
        SpecError: The space has none.
    """
    with seeded(spec.seed):
        supernet = supernet_for(search.space, alpha_init=spec.alpha_init, **spec.options)
        if search.spec.recipe.init == "kaiming":
            supernet.apply(kaiming)
    return supernet.to(device).to(memory_format=torch.channels_last)


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
        start: The alphas before the first epoch.
        history: The epochs so far.
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
        self._search = search
        self._spec = spec
        self._table = table
        self._device = device
        self._files = files
        self._identity = _identity(search, spec, table)
        self._folder = CheckpointFolder(_folder(files, study, self._identity))
        if restart:
            self._folder.remove()
        weight_images, alpha_images = self._loaders()
        self.steps = len(weight_images)
        precision = search.spec.recipe.precision
        # A supernet's steps have no gradient scaler, which float16 needs.
        self._dtype = torch.float32 if precision == "fp16" else resolve_precision(precision, device)
        if self._dtype == torch.float16:
            self._dtype = torch.float32
        self.supernet = make_supernet(search, spec, device)
        self._optimisation = BilevelSearch(
            self.supernet, weight_images, alpha_images, spec, table.costs, self._dtype, interrupted
        )
        self.start = {name: alpha.tolist() for name, alpha in self.supernet.alphas.items()}
        self.history: list[Epoch] = []
        self._restore()

    def run(self, on_epoch: Callable[[Epoch], None] = lambda epoch: None) -> dict[str, Any]:
        """Train what is left, then store alphas, summary and history with the study.

        Returns:
            The summary; of a training that had ended before, as it is stored.

        Raises:
            TrainingError: Gradients exploded or the search collapsed; what its last good epoch found is stored.
            Interrupted: It was asked to stop; the same call goes on.
        """
        stored = study_attribute(self._study.user_attrs, StudyKey.SUPERNET)
        if stored is not None and stored["identity"] == self._identity and len(self.history) == self._spec.epochs:
            return dict(stored)
        try:
            for epoch in self._optimisation.epochs():
                self.history.append(epoch)
                self._save()
                on_epoch(epoch)
        except TrainingError as error:
            if not self.history:
                raise
            self._store(stopped=error.cause)
            raise TrainingError(f"{error}; epoch {len(self.history)} is kept", error.cause) from error
        return self._store(stopped=None)

    def _loaders(self) -> tuple[BatchLoader, BatchLoader | None]:
        images, side = self._search.data.train, self._search.space.input_size
        if self._spec.update == "joint":
            return make_loader(images, self._spec.batch_size, side, self._device), None
        halves = split(images, 0.5, self._spec.seed)
        weight, alpha = (make_loader(half, self._spec.batch_size, side, self._device) for half in halves)
        return weight, alpha

    def _save(self) -> None:
        state = self._optimisation.state_dict()
        progress = {"start": self.start, "epochs": [asdict(epoch) for epoch in self.history]}
        self._folder.save(len(self.history), state.pop("supernet"), state, progress)

    def _restore(self) -> None:
        found = self._folder.load(self._check)
        if found is not None:
            self._optimisation.load_state_dict({**found.state, "supernet": found.weights})
            self.start = found.progress["start"]
            self.history = [Epoch(**epoch) for epoch in found.progress["epochs"]]

    def _check(self, found: Checkpoint) -> None:
        """Raise where the training cannot go on from a checkpoint."""
        self._optimisation.require_state_dict({**found.state, "supernet": found.weights}, found.epoch)
        _require_logits(found.progress["start"], self.start)
        epochs = [Epoch(**epoch) for epoch in found.progress["epochs"]]
        if [epoch.number for epoch in epochs] != list(range(1, found.epoch + 1)):
            raise ValueError(f"it does not hold the results of {found.epoch} epochs")
        for epoch in epochs:
            _require_logits(epoch.alphas, self.start)
            self._search.space.architecture(epoch.derived)
            for name, value in epoch.entropy.items():
                require_number(f"the entropy of {name}", value)
            numbers = (epoch.loss, epoch.accuracy, epoch.gradient_norm, epoch.temperature, epoch.seconds)
            for value in (*numbers, *(v for v in (epoch.alpha_loss, epoch.cost) if v is not None)):
                require_number(f"a result of epoch {epoch.number}", value)

    def _store(self, stopped: str | None) -> dict[str, Any]:
        alphas = {name: alpha.tolist() for name, alpha in self.supernet.alphas.items()}
        argmax = self._search.space.architecture(self.supernet.derive())
        last = self.history[-1]
        validation = make_loader(
            self._search.data.validation, self._spec.batch_size, self._search.space.input_size, self._device
        )
        shared = evaluate(self.supernet.extract(argmax), validation, self._device, self._dtype)
        summary = {
            "argmax": str(argmax),
            "shared_accuracy": round(shared.accuracy, 4),
            "epochs": len(self.history),
            "seconds": round(sum(epoch.seconds for epoch in self.history), 2),
            "mean_entropy": round(sum(last.entropy.values()) / len(last.entropy), 4),
            "expected_cost": None if last.cost is None else round(last.cost, 5),
            "unit": self._table.unit,
            "costs": self._table.source,
            "stopped": stopped,
            "identity": self._identity,
            "artifact": self._upload_history(),
            "settings": self._spec.model_dump(mode="json", exclude_defaults=True),
        }
        write_alphas(self._study, alphas, summary)
        return summary

    def _upload_history(self) -> str:
        """Every epoch's figures, and each choice's probability, as a CSV that the dashboard shows."""
        parameters = self._search.space.parameters
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


def trained_supernet(study: Study, search: Search, device: torch.device, files: Path) -> Supernet:
    """The study's supernet with the weights that its training left behind.

    Raises:
        StudyError: The study has no trained supernet, or its weights are on another machine.
    """
    _, summary = read_alphas(study)
    folder = _folder(files, study, summary["identity"])
    with seeded(0):
        supernet = supernet_for(search.space, **summary["settings"].get("options", {}))
    supernet = supernet.to(device).to(memory_format=torch.channels_last)
    found = CheckpointFolder(folder).load(lambda found: require_tensors(found.weights, supernet.state_dict()))
    if found is None:
        raise StudyError(
            f"the weights of the supernet of study {study.study_name!r} are not in {folder}; run this where it was"
            f" trained, or run: nas-optuna supernet train --study {study.study_name}"
        )
    supernet.load_state_dict(found.weights)
    return supernet


def most_probable(study: Study, space: SearchSpace, count: int) -> list[tuple[Architecture, float]]:
    """The argmax of a study's alphas and what follows it, with their probabilities.

    Raises:
        StudyError: The study has no trained supernet.
        ArchitectureError: It was trained for another space.
    """
    alphas, _ = read_alphas(study)
    found = []
    for indices, log_probability in top(alphas, count):
        params = {name: space.parameters[name].choices[i] for name, i in indices.items() if name in space.parameters}
        found.append((space.architecture(params), math.exp(log_probability)))
    return found


def _identity(search: Search, spec: SupernetSpec, table: CostTable) -> str:
    """Twelve hex digits that differ whenever a training would."""
    said = search.spec.to_dict()
    parts = [said["data"], said["space"], said["recipe"]["input_size"], said["recipe"]["init"], dict(table.costs)]
    text = json.dumps([*parts, _settings(spec)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _settings(spec: SupernetSpec) -> dict[str, Any]:
    """Without `options` where there are none, as trainings before they existed were identified."""
    return spec.model_dump(mode="json", exclude=None if spec.options else {"options"})


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
