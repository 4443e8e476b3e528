"""A supernet as part of a study: trained on the study's images, resumed after a kill, and stored as one result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from optuna.study import Study

from nas_optuna.devices import laid_out
from nas_optuna.digests import hex_digest
from nas_optuna.errors import SpecError, StudyError, TrainingError
from nas_optuna.execution.evaluator import Measurement, Search
from nas_optuna.execution.events import Callback, Callbacks, OptunaCallback, Run, Subject
from nas_optuna.oneshot.price import CostTable, Price, cost_of, measure_price
from nas_optuna.oneshot.ranking import ArchitectureRanker
from nas_optuna.oneshot.score import SharedEvaluator
from nas_optuna.oneshot.short_trainings import ShortPlan, ShortTrainer
from nas_optuna.oneshot.strategies import STRATEGIES, find_strategy, is_without_weights, strategy_options
from nas_optuna.oneshot.strategies.base import Epoch, Job, Strategy
from nas_optuna.oneshot.trained import make_evaluator, own_accuracies, part_of, require_same, source_of, supernet_folder
from nas_optuna.randomness import seeded
from nas_optuna.spaces.layers import kaiming
from nas_optuna.spaces.supernet import supernet_for, widened
from nas_optuna.spec import SupernetSpec
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.supernet_result import SupernetResult, disown_result, entropy, find_result, write_result
from nas_optuna.study.transactions import require_writable
from nas_optuna.training import Checkpoint, CheckpointFolder
from nas_optuna.training.checkpoint import require_tensors
from nas_optuna.training.fit import never
from nas_optuna.training.network import resolve_precision


def make_strategy(
    search: Search, table: CostTable, device: torch.device, interrupted: Callable[[], bool] = never
) -> Strategy | None:
    """The strategy of the spec's ``[supernet]`` section with the space's supernet; None with a budget of 0."""
    spec, recipe = search.spec.supernet, search.spec.recipe
    if is_without_weights(spec):
        return None
    strategy = find_strategy(spec.strategy)
    with seeded(spec.seed):  # initial weights and alphas depend on settings and seed only
        part = part_of(search.space, search.candidates.fixed)
        supernet = supernet_for(part, alpha_init=spec.alpha_init, **spec.options)
        if recipe.init == "kaiming" and search.space.draws_weights:
            supernet.apply(kaiming)
        if not strategy.learns_alphas:
            supernet.stabilize_init()
    if search.candidates.listed_in(supernet.space) == ():
        raise SpecError(
            "none of the listed architectures is in the part of the space that the supernet holds; pin another part by"
            " --fix, list some that are in it, or rank without shared weights: --budget 0"
        )
    laid_out(supernet, device)
    # A supernet's steps have no gradient scaler, which float16 would need.
    dtype = torch.float32 if recipe.precision == "fp16" else resolve_precision(recipe.precision, device)
    dtype = torch.float32 if dtype == torch.float16 else dtype
    job = Job(supernet, search.data.train, spec, table.costs, dtype, interrupted)
    made: Strategy = STRATEGIES.make(spec.strategy, job, strategy_options(spec), options={}, wanted=Strategy)
    if not hasattr(made, "meter"):
        raise SpecError(f"__init__ of strategy {spec.strategy!r} must call super().__init__(job, options)")
    return made


@dataclass(eq=False)
class SupernetTraining:
    """One supernet's training within a study; after a kill it continues from its last epoch."""

    # With a budget of 0 there are no shared weights: sizes and short trainings rank architectures.

    study: Study
    search: Search  # later of the part of its space that the supernet holds
    table: CostTable
    device: torch.device
    files: Path
    restart: bool = False
    interrupted: Callable[[], bool] = never

    def __post_init__(self) -> None:
        self.whole = self.search.space  # for which the result has alphas
        self._spec = self.search.spec.supernet
        self._options: Any = strategy_options(self._spec)
        # None with a budget of 0
        self.strategy = self._made()
        self._version = self.strategy.supernet.version if self.strategy else 0
        data = self.study.user_attrs.get(StudyKey.DATA, {}).get("name", self.search.spec.data.name)
        self._source, settings = source_of(self.search), self._options.model_dump(mode="json")
        fixed = dict(self.search.candidates.fixed)
        more = [part for part in (self._source, fixed) if part]  # nothing for a built-in space without pins
        self._identity = _identity(self.search, data, settings, self.table, self._version, more)
        space = self.strategy.supernet.space if self.strategy else part_of(self.whole, fixed)
        self.search = replace(self.search, space=space)
        self._listed = self.search.candidates.listed_in(space)
        self._list = "" if self._listed is None else hex_digest(" ".join(sorted(map(str, self._listed))))
        self._size = space.size if self._listed is None else len(self._listed)
        self._folder = CheckpointFolder(supernet_folder(self.files, self.study, self._identity))
        if self.restart:
            require_writable(self.study)
            self._folder.remove()
            disown_result(self.study, self._identity)
        self.history: list[Epoch] = []
        self.price: Price | None = None  # None without shared weights
        if self.strategy and not self._restore():
            scored = None if self.strategy.learns_alphas else self._evaluator()
            self.price = measure_price(self.search, self.strategy, scored, self.scored)
            if (budget := getattr(self._options, "budget", None)) is not None:
                self.strategy.length = max(1, round(budget / self.price.epoch_in_trainings))

    def _made(self) -> Strategy | None:
        return make_strategy(replace(self.search, space=self.whole), self.table, self.device, self.interrupted)

    @property
    def length(self) -> int:
        """Total number of epochs."""
        return self.strategy.length if self.strategy else 0

    @property
    def _ranks(self) -> bool:
        return self.strategy is None or not self.strategy.learns_alphas

    @property
    def scored(self) -> int:
        """How many architectures are scored after the training; none if the strategy learns alphas."""
        return min(self._options.evaluations, self._size) if self._ranks else 0

    @property
    def plan(self) -> ShortPlan:
        """Short trainings that follow the shared weights; none if the strategy learns alphas."""
        recipe = self.search.spec.recipe
        trained = len(own_accuracies(self.study, self.search))
        count = self._options.short_trainings if self._ranks else 0
        return ShortPlan.of(count, recipe.epochs, self._size, trained, alone=self.strategy is None)

    @property
    def prices(self) -> dict[str, float]:
        """The cost of each part in stand-alone trainings: ``weights``, ``scoring`` and ``short``."""
        recipe, price = self.search.spec.recipe, self.price
        return {
            "weights": self.length * price.epoch_in_trainings if price else 0.0,
            "scoring": self.scored * price.scoring_seconds / price.training_seconds if price else 0.0,
            "short": self.plan.epochs / (recipe.epochs * recipe.repeats),
        }

    def train(self, callbacks: Sequence[Callback | OptunaCallback] = ()) -> SupernetResult:
        """Complete the training, and store the result with the study."""
        # After a strategy that does not learn alphas, short trainings and a ranking give the alphas.
        told = Callbacks(callbacks)
        short = ShortTrainer(self.search, self.plan, self.device, self._folder.path, told, self.interrupted)
        facts = {  # that displays need before the first epoch
            "what": f"supernet of space {self.search.space.name}, strategy {self._spec.strategy}",
            "parameters": list(self.strategy.supernet.alphas if self.strategy and not self._ranks else ()),
            "unit": self.table.unit,
            "steps_per_epoch": len(self.strategy.images) if self.strategy else 0,
            "epochs_done": len(self.history),
            "short_steps": short.steps,
        }
        with told.during(Run("supernet", self.study, 1, self.length, None, facts)):
            return self._train(told, short)

    def _train(self, told: Callback, short: ShortTrainer) -> SupernetResult:
        if (stored := self.finished()) is not None:
            return stored
        require_writable(self.study)
        subject = Subject("supernet")
        told.trial_started(subject)
        try:
            for epoch in self.strategy.epochs() if self.strategy else ():
                self.history.append(epoch)
                self._save()
                told.step_finished(subject, _measured(epoch))
        except TrainingError as error:
            if not self.history or not self._restore():  # what exploded must not be ranked
                raise
            self._store(None, stopped=error.cause)  # without short trainings, so that the error is reported at once
            raise TrainingError(f"{error}; epoch {len(self.history)} is kept", error.cause) from error
        result = self._store(short, stopped=None)
        told.trial_finished(subject, None)
        return result

    def finished(self) -> SupernetResult | None:
        """The study's result if nothing is left to do for it."""
        stored = None
        if len(self.history) == self.length:
            with suppress(StudyError):  # a damaged one is stored anew
                stored = find_result(self.study)
        return stored if stored is not None and self._is_mine(stored) else None

    def _is_mine(self, stored: SupernetResult) -> bool:
        """Whether a result has these weights and a ranking with these settings."""
        spec = SupernetSpec.model_validate(stored.settings)
        # A database may name any strategy, whose code nobody was asked about.
        if stored.identity != self._identity or stored.stopped or spec.strategy != self._spec.strategy:
            return False
        with suppress(SpecError):
            settings = strategy_options(spec)
            mine = (self._options.short_trainings, self._list) if self._ranks else None
            return mine is None or (getattr(settings, "short_trainings", None), stored.listed) == mine
        return False

    def _evaluator(self) -> SharedEvaluator | None:
        if self.strategy is None:
            return None
        return make_evaluator(self.strategy.supernet, self.search, self.device, self.strategy.job.dtype)

    def _save(self) -> None:
        assert self.strategy is not None
        state = self.strategy.checked_state()
        progress = {
            "price": self.price and asdict(self.price),
            "epochs": [asdict(epoch) for epoch in self.history],
            "images": self.search.data.fingerprint,
            "source": self._source,
        }
        self._folder.save(len(self.history), state.pop("supernet"), state, progress)

    def _restore(self) -> bool:
        """Continue from the last checkpoint that fits; False if there is none."""
        strategy = self.strategy
        assert strategy is not None

        def load(found: Checkpoint) -> None:
            require_same(found, self.search, self._source)
            require_tensors(found.weights, strategy.supernet.state_dict())
            _progress(found)
            strategy.load_state_dict({**found.state, "supernet": found.weights})

        found = self._folder.load(load)
        if found is None:
            if strategy.finished:  # a part of one was loaded
                self.strategy = self._made()
            return False
        self.price, self.history = _progress(found)
        return True

    def _store(self, short: ShortTrainer | None, stopped: str | None) -> SupernetResult:
        began = time.monotonic()
        evaluator = self._evaluator()
        found = self._rank(evaluator, short) if self._ranks else SupernetResult(alphas={})
        if self.strategy:
            supernet = self.strategy.supernet
            supernet.set_alphas(found.alphas)
            found = replace(found, alphas=supernet.alphas_of(self.whole))
        else:
            found = replace(found, alphas=widened(found.alphas, self.search.space, self.whole))
        space, derived = self.search.space, found.derived
        argmax = space.architecture(
            {name: self.whole.parameters[name].choices[derived[name]] for name in space.parameters}
        )
        if self.strategy:
            cost = self.strategy.supernet.expected_cost(self.table.costs).item()
        else:
            cost = cost_of(space, argmax, self.table.costs)
        result = replace(
            found,
            strategy=self._spec.strategy,
            argmax=str(argmax),
            shared_accuracy=round(evaluator([argmax])[0].accuracy, 4) if evaluator else None,
            epochs=len(self.history),
            price=round(sum(self.prices.values()), 2),
            expected_cost=round(cost, 5),  # under the alphas, or of the argmax if there is no supernet
            unit=self.table.unit,
            costs=self.table.source,
            stopped=stopped,
            identity=self._identity,
            version=self._version,
            settings=self._spec.model_dump(mode="json"),
            fixed=dict(self.search.candidates.fixed),
            listed=self._list,
        )
        before = sum(epoch.seconds for epoch in self.history) + (short.seconds_before if short else 0.0)
        result = replace(result, seconds=round(before + time.monotonic() - began, 2))
        write_result(self.study, result)
        return result

    def _rank(self, evaluator: SharedEvaluator | None, short: ShortTrainer | None) -> SupernetResult:
        return ArchitectureRanker(
            self.search.space,
            evaluator,
            self._spec,
            self._options.evaluations,
            self.table.costs,
            self.search.candidates.excess,
            own_accuracies(self.study, self.search),
            short,
            self._listed,
        ).rank()


def _measured(epoch: Epoch) -> Measurement:
    """An epoch of a supernet as a measurement for callbacks."""
    # Its metrics are ``train_loss``, ``train_accuracy`` and ``gradient_norm``; and, if the strategy has them,
    # ``alpha_loss``, ``temperature``, ``expected_cost``, and ``entropy/NAME`` in nats for each parameter.
    called = {"loss": "train_loss", "accuracy": "train_accuracy", "cost": "expected_cost"}
    known = {name: value for name, value in asdict(epoch).items() if value is not None}
    number, seconds, alphas = known.pop("number"), known.pop("seconds"), known.pop("alphas", {})
    entropies = {f"entropy/{name}": entropy(logits) for name, logits in alphas.items()}
    return Measurement(number, {called.get(name, name): value for name, value in known.items()} | entropies, seconds)


def _progress(found: Checkpoint) -> tuple[Price, list[Epoch]]:
    return Price(**found.progress["price"]), [Epoch(**epoch) for epoch in found.progress["epochs"]]


def _identity(
    search: Search, data: str, options: Mapping[str, Any], table: CostTable, version: int, more: Sequence[Any]
) -> str:
    """Twelve hex digits that change whenever the shared weights would."""
    # `data` is the name that the study began with, since images may have moved.
    said = search.spec.to_dict()
    recipe = said["recipe"]
    parts = [said["data"] | {"name": data}, said["space"], recipe["input_size"], recipe["init"], dict(table.costs)]
    # Short trainings come after the weights, so another number of them does not change these.
    settings = {name: value for name, value in {**said["supernet"], **options}.items() if name != "short_trainings"}
    text = json.dumps([*parts, version, settings, *more], sort_keys=True)
    return hex_digest(text, 12, "sha256")
