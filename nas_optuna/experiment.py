"""The only place where a study's parts are put together, from a spec or from a stored study."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study

from nas_optuna import hyperparameters, spec_parts
from nas_optuna.costs.candidates import Candidates
from nas_optuna.data import Augmentation, ImageSet, SearchData, begun_with, check_test_pictures, load_test_images
from nas_optuna.errors import SpecError, StudyError, StudyExists, checked
from nas_optuna.execution import reference
from nas_optuna.execution.evaluator import Search
from nas_optuna.execution.events import Callback, Callbacks, OptunaCallback, Run
from nas_optuna.execution.executors.contract import Executor, Handle, Work
from nas_optuna.execution.executors.local import LocalExecutor
from nas_optuna.execution.loop import Outcome, StopRequest, TrialBudget
from nas_optuna.execution.objective import EvaluatorObjective
from nas_optuna.oneshot.strategies import strategy_options
from nas_optuna.pruners import create_pruner
from nas_optuna.quantities import plural
from nas_optuna.registry import importing_only
from nas_optuna.samplers.base import drawn_at_random
from nas_optuna.samplers.prior import AS_LEARNED, WarmStartSampler
from nas_optuna.spaces import SearchSpace
from nas_optuna.spec import StudySpec
from nas_optuna.spec_parts import code_named, make_candidates, make_evaluator, make_sampler, with_default_search
from nas_optuna.spec_text import toml_value
from nas_optuna.study.files import checkpoints_of
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.storage import open_storage, sqlite_file
from nas_optuna.study.studies import (
    create_study,
    load_study,
    optuna_study,
    require_same_space,
    require_same_spec,
    study_names,
    study_spec,
)
from nas_optuna.training.fit import never

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """All parts that a study spec names, made and checked.

    Attributes:
        spec: The study spec.
        objective: Scores the architecture of a trial; it has evaluator, costs and limits.
        candidates: What may be proposed.
        sampler: Proposes it.
        pruner: Stops trials.
        data: The images of the built-in training; None if the study has its own evaluator.
        why: The reason for this sampler, if the spec does not name one.
        data_directory: Where data sets are; None is the default.
        begun: The name of the stored study, if there is one.

    Examples:
        >>> spec = StudySpec.from_dict({"space": {"name": "conv", "depth": 1}, "recipe": {"epochs": 1}})
        >>> experiment = Experiment.from_spec(spec, device="cpu")
        >>> study = experiment.create(optuna.storages.InMemoryStorage(), "example")
        >>> experiment.run(study, trials=1).trials
        1
    """

    spec: StudySpec
    objective: EvaluatorObjective
    candidates: Candidates
    sampler: BaseSampler
    pruner: BasePruner
    data: SearchData | None
    why: str = ""
    data_directory: Path | None = None
    begun: str | None = None

    @classmethod
    @checked
    def from_spec(
        cls,
        spec: StudySpec,
        *,
        data_directory: Path | None = None,
        device: str = "auto",
        checkpoints: Path | None = None,
        interrupted: Callable[[], bool] = never,
        callbacks: Sequence[Callback] = (),
        keep_weights: bool = False,
        images: Callable[[], SearchData] | None = None,
    ) -> Experiment:
        """Load and make the parts of a spec.

        Args:
            spec: The study spec. Code that it names is imported; see `require_trust` for specs of other people.
            data_directory: Where data sets are; None is the default.
            device: Where to train.
            checkpoints: Folder for the state of running trials, of one study only.
            interrupted: Called between optimiser steps; True stops the training.
            callbacks: Callbacks that are told of each step.
            keep_weights: Keep the weights of each complete trial in `checkpoints`; ``nas-optuna export`` finds them
                where ``NAS_OPTUNA_FILES`` names that folder.
            images: Returns the images if they are in memory already; None loads them.

        Raises:
            SpecError: A name or option is unknown, or a value is refused.
            DataError: The data set is absent or unusable.
            DeviceError: The device is not there.
            TableError: The latency table is damaged, or was measured elsewhere.
        """
        spec, why = with_default_search(spec)
        with importing_only(code_named(spec)):
            if spec.supernet.strategy_options:
                strategy_options(spec.supernet)  # refuses misspelt keys early
            data, evaluator = make_evaluator(spec, data_directory, device, images)
            pruner = create_pruner(spec.pruner.name, evaluator.steps, spec.pruner.options)
            objective = EvaluatorObjective(
                evaluator,
                objectives=spec.objectives,
                limits=spec.limits,
                latency=spec.latency,
                device=device,
                reuse_duplicates=spec.reuse_duplicates,
                checkpoints=checkpoints,
                interrupted=interrupted,
                callbacks=callbacks,
                search=spec.search,
                keep_weights=keep_weights,
                keep_paused=int(spec.keep_paused),
            )
            candidates = make_candidates(spec, objective)
            return cls(spec, objective, candidates, make_sampler(spec, candidates), pruner, data, why, data_directory)

    @classmethod
    @checked
    def of_study(cls, study: Study | Any, spec: StudySpec | None = None, **given: Any) -> Experiment:
        """Make the experiment of a stored study, and set the study's sampler and pruner.

        Args:
            study: A study that was made by nas-optuna.
            spec: Its spec with permitted changes, such as another sampler; by default the stored one.
            given: Keyword arguments of `from_spec`. Without `checkpoints`, they are where ``nas-optuna run`` has them.

        Raises:
            StudyError: It searches another space, or its images have changed.
            DataError: Its images are missing.
            SpecError: As in `from_spec`.
        """
        code = None if spec else getattr(study, "agreed", None)  # a loaded study's, whose spec may be another one now
        stored = study_spec(study := optuna_study(study))
        wanted = spec or stored
        given.setdefault("checkpoints", checkpoints_of(study))  # else what it has stopped would begin anew
        if unasked := [] if code is None else [each for each in code_named(wanted) if each not in code]:
            raise SpecError(f"{unasked[0]} would be imported, and nobody was asked about it")
        with begun_with(wanted.data.name, study.study_name):
            experiment = replace(cls.from_spec(wanted, **given), begun=study.study_name)
        experiment.require_same(study)
        experiment._remember_data(study, stored)
        study.sampler, study.pruner = experiment.sampler, experiment.pruner
        return experiment

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return self.objective.space

    @property
    def search(self) -> Search:
        """Spec, data, space and candidates, for a supernet or a retraining.

        Raises:
            SpecError: The study has its own evaluator, which cannot be used for these.
        """
        if self.data is None:
            raise SpecError(
                f"the study's evaluator {self.spec.evaluator.name!r} trains in its own way, while retrain and a"
                " supernet need images and a recipe; train its networks in your own code, or choose another sampler"
            )
        return Search(self.spec, self.data, self.space, self.candidates)

    @cached_property
    def test_images(self) -> ImageSet:
        """The test images; they are read once."""
        data, size = self.spec.data, self.spec.recipe.input_size
        with begun_with(data.name, self.begun):
            return load_test_images(data, self.search.data.train, self.data_directory, input_size=size)

    @checked
    def create(self, storage: optuna.storages.BaseStorage | str, name: str, *, load_if_exists: bool = False) -> Study:
        """Create the Optuna study, which stores this spec, its space and the fingerprint of its data.

        Args:
            storage: The storage, or its URL.
            name: The study's name.
            load_if_exists: Continue the study of that name if it exists.

        Raises:
            StudyError: The name is taken or invalid; or the existing study has another space or other images.
            SpecError: A part that is needed later is unknown, or a setting of a new study has no effect.
            TableError: The table of a latency kit was measured under other conditions.
            DataError: A picture of the test part is damaged.
        """
        file = sqlite_file(storage) if isinstance(storage, str) else None
        if is_new := file is not None and not file.exists():
            self._require_later_parts()  # no file is made for a spec that is refused
        if isinstance(storage, str):
            storage = open_storage(storage, create=True)
        if not is_new and name not in study_names(storage):
            self._require_later_parts()
        try:
            study = create_study(storage, name, self.spec, self.space)
        except StudyExists:
            if not load_if_exists:
                raise
            self.require_same(study := load_study(storage, name))
            require_same_spec(study, self.spec)
        self._remember_data(study, self.spec)
        study.sampler, study.pruner = self.sampler, self.pruner
        return study

    def _require_later_parts(self) -> None:
        """Refuse the parts that are needed only later, before a study stores them."""
        self.candidates.check()
        spec_parts.require_new(self.spec, self.sampler)
        if self.spec.reference:
            reference.require_training(self.objective)
            _ = self.reference_space
        if self.data is not None and "test_images" not in vars(self):
            check_test_pictures(self.spec.data, self.data_directory)

    @cached_property
    def reference_space(self) -> SearchSpace:
        """A space that contains only the network that the spec's reference builds; it is built once."""
        assert self.spec.reference is not None
        return reference.as_space(self.spec.reference, self.space)

    def require_same(self, study: Study) -> None:
        """Refuse a study that began with another space or other images; that they have moved is no difference.

        Raises:
            StudyError: The message names the difference.
        """
        require_same_space(study := optuna_study(study), self.space)
        began: Mapping[str, Any] = study.user_attrs.get(StudyKey.DATA, {})
        if self.data is not None and began and began.get("fingerprint") != self.data.fingerprint:
            raise StudyError(
                f"the images of {self.data.name!r} are not those that study {study.study_name!r} began with, so its"
                " values could not be compared; restore them, or give the new ones a study of their own,"
                " under another name (--study NAME)"
            )

    def _remember_data(self, study: Study, stored: StudySpec) -> None:
        """Store the data's fingerprint, if an older version did not, and their new place, if they were moved."""
        if self.data is None:
            return
        if StudyKey.DATA not in study.user_attrs:
            study.set_user_attr(StudyKey.DATA, self.data.facts)
        if stored.data.name != self.spec.data.name:
            moved = stored.override([f"data.name={toml_value(self.spec.data.name)}"])
            study.set_user_attr(StudyKey.SPEC, moved.to_dict())
            logger.warning("the images of study %r lie at %s now", study.study_name, self.spec.data.name)

    @checked
    def run(
        self,
        study: Study | Any,
        *,
        trials: int | None = None,
        timeout: float | None = None,
        total: int | None = None,
        executor: Executor | None = None,
        handle: Handle | None = None,
        stop: StopRequest | None = None,
        callbacks: Sequence[Callback | OptunaCallback] = (),
        kind: Literal["search", "check"] = "search",
    ) -> Outcome:
        """Run trials of a study; see `nas_optuna.execution.loop.run`.

        Args:
            study: Made by `create`, or loaded and given to `of_study`; or what `nas_optuna.load_study` gives.
            trials: Finish this many; None is no limit.
            timeout: Begin no trial after this many seconds; None is no limit.
            total: Make no trial once the study has this many, no matter who made them; None is no limit.
            executor: Runs the trials; by default in this process.
            handle: Opens the study in other processes, if the executor has some.
            stop: Checked between trials; pass the same one to `from_spec`, as ``interrupted``.
            callbacks: Callbacks that are told of the run, of each trial and of each step.
            kind: The kind of run for callbacks: a search, or the trainings of a supernet's check.
        """
        if not isinstance(study, Study):
            self.require_same(study := optuna_study(study))
            study.sampler, study.pruner = self.sampler, self.pruner
        told = Callbacks(callbacks)
        facts = {"what": self.describe(), "objectives": list(self.spec.objectives), "limits": dict(self.spec.limits)}
        with told.during(Run(kind, study, trials, self.objective.evaluator.steps, timeout, facts)):
            budget = TrialBudget(trials, timeout, total)  # whose clock runs while the reference is trained
            if self.spec.reference and kind == "search":
                reference.measure(study, self.spec.reference, self.objective, told, lambda: self.reference_space)
            work = Work(study, self.objective, self.data, handle)
            executor = executor or LocalExecutor()
            outcome = executor.run(work, budget, stop=stop or StopRequest(), told=told)
            if not isinstance(outcome, Outcome):  # of a user's executor
                kind, gave = type(executor).__name__, type(outcome).__name__
                raise SpecError(f"the trials are kept, but executor {kind} gave a {gave}, not an Outcome")
            return outcome

    @checked
    def begin_warm(self, study: Study, trials: int) -> None:
        """Let the study's supernet propose the first trials, and its sampler the others.

        Args:
            study: Its sampler is replaced.
            trials: How many the supernet proposes.
        """
        options = [f"sampler.{name}={value}" for name, value in asdict(AS_LEARNED).items()]
        warm = make_sampler(self.spec.with_parts(sampler="supernet").override(options), self.candidates)
        study.sampler = WarmStartSampler(study.sampler, warm, trials=trials)

    def describe(self, *, within: bool = False) -> str:
        """One line for a person; `within` leaves out pruner and epochs, which a clock replaces."""
        goal = self.spec.goal(typed=True)
        if self.data is None:
            what = f"{goal} by {self.spec.evaluator.name}"
        else:
            what = (
                f"{goal} on {self.data.name} ({len(self.data.train):,} training and {len(self.data.validation):,}"
                f" {self.spec.data.select_on} images, {'×'.join(map(str, self.space.image_size))})"
            )
        what += f", space {self.space.name} ({plural(self.space.size, 'architecture')})"
        what += f", sampler {self.spec.sampler.name}" + (f" ({self.why})" if self.why else "")
        if within:
            return what
        return f"{what}, pruner {self.spec.pruner.name}, {plural(self.objective.evaluator.steps, 'epoch')}"

    def notes(self) -> tuple[str, ...]:
        """Lines for a person on limits and images: margins, classes, sizes, what is left out."""
        limits = tuple(self.objective.limits.remarks())
        if self.data is None:
            return limits
        size = self.data.describe_size(*self.space.image_size)
        varied = Augmentation.note(self.spec.recipe, self.data.train)
        found = (*limits, *self._searched(), f"images: {size}" if size else "", *self.data.notes, varied)
        return tuple(line for line in found if line)

    def _searched(self) -> Iterator[str]:
        """Lines on settings without effect, on those that trials choose, and that the sampler does not propose."""
        for name, why in hyperparameters.unread(self.spec.recipe, self.spec.search).items():
            yield f"{name} is of no use with {why}"
        if found := self.objective.searched:
            yield f"each trial chooses beside its architecture: {', '.join(found)}"
        if drawn := drawn_at_random(self.sampler, found):
            yield f"sampler {self.spec.sampler.name} draws {', '.join(drawn)} at random"


@dataclass(frozen=True)
class ExperimentHandle(Handle):
    """Everything that another process needs to work on a stored study; see `Handle`.

    Attributes:
        data_directory: Where data sets are; None is their default place.
        spec: The study's spec with changes for this run; None is the stored one.
        warm_trials: How many trials the study's supernet proposes first.
    """

    data_directory: Path | None = None
    spec: StudySpec | None = None
    warm_trials: int = 0

    def work(self, *, interrupted: Callable[[], bool]) -> Work:
        """See `Handle`."""
        experiment, study = self.open(interrupted=interrupted)
        return Work(study, experiment.objective, experiment.data, self)

    def open(self, *, interrupted: Callable[[], bool] = never) -> tuple[Experiment, Study]:
        """The experiment and its study, in this process."""
        study = load_study(open_storage(self.storage, with_retry=True), self.study)
        experiment = Experiment.of_study(
            study,
            self.spec,
            data_directory=self.data_directory,
            device=self.device,
            checkpoints=self.checkpoints,
            interrupted=interrupted,
            keep_weights=self.keep_weights,
            images=self.images,
        )
        if self.warm_trials:
            experiment.begin_warm(study, self.warm_trials)
        return experiment, study
