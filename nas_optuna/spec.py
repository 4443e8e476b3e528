"""A study spec: the TOML file with the search space, the data and the training of each network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from nas_optuna.errors import SpecError, checked, named
from nas_optuna.objectives import describe, parse_amount, parse_criterion, parse_limits
from nas_optuna.recipe import Recipe as Recipe
from nas_optuna.spec_text import Settings, check_values, first_problem, read_toml, supernet_section, with_overrides

SUFFIX = ".toml"

ResizePolicy = Literal["stretch", "crop", "pad"]
"""How an image that is not square becomes a square."""


class DataSpec(Settings):
    """Which images, and how many of them.

    Attributes:
        name: A registered data set, ``folder:PATH``, ``npz:FILE`` or ``file.py:function``.
        train_limit: Use only this many training images (validation included), stratified; for quick looks.
        validation_fraction: Share of the training images held out to select architectures; not used where the data
            set has a validation part of its own.
        split_seed: Seed of that split and of `train_limit`; the same for every trial.
        select_on: The images that rank architectures. ``"test"`` trains on all training images and ranks by test
            accuracy, like the reference implementation; the reported accuracy is then optimistic.
        resize: How images that are not square, or of several sizes, become the square that a network sees:
            ``"stretch"`` uses all of the image and changes its proportions, ``"crop"`` uses the largest central square,
            ``"pad"`` adds black bars.
        max_side: If the recipe has no input size, larger images are reduced to a square of this side. Without it,
            pictures of a folder are reduced to 224, and other images to 4,096.
    """

    name: str = "digits"
    train_limit: int | None = Field(default=None, ge=2)
    validation_fraction: float = Field(default=0.2, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0)
    select_on: Literal["validation", "test"] = "validation"
    resize: ResizePolicy = "stretch"
    max_side: int | None = Field(default=None, ge=1)


class _Plugin(Settings):
    """A name and its options, which the named part checks."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Every key beside `name`."""
        return dict(self.model_extra or {})


class SpaceSpec(_Plugin):
    """The search space with its own options (`depth`, `filters`, …)."""

    name: str = "conv"


class EvaluatorSpec(_Plugin):
    """The evaluator with its own options; ``"training"`` is the built-in training by data and recipe."""

    name: str = "training"


class SamplerSpec(_Plugin):
    """The sampler with its own options, and the seed of all its proposals.

    Attributes:
        name: Name of the sampler; ``"auto"`` is ``curves`` if a study has one objective and no other pruner is named,
            else ``tpe``.
        seed: Seed of all proposals.
    """

    name: str = "auto"
    seed: int = Field(default=0, ge=0)


class PrunerSpec(_Plugin):
    """The pruner with its own options; ``"auto"`` is ``curves`` with the sampler of that name, else ``guarded``."""

    name: str = "auto"


class LatencySpec(Settings):
    """How the cost ``latency_ms`` is determined.

    Attributes:
        table: A latency table's file. Without one each network is measured on the device that trains it, before the
            training and, if latency is an objective, in each of its epochs.
        force: Use the table although it was measured on another device, by another version, or on a throttled device;
            right if the networks will run on that device.
        margin: The share by which a network may take longer than the table says, for which a limit leaves room; by
            default the error of the table for its own whole networks.
        runtime: What runs the networks: ``"torch"``, ``"torch-compile"``, ``"onnxruntime"``, or your own runtime.
        threads: Threads of one operation on the CPU.
        batch_size: Images per call; the cost ``memory`` also counts activations for so many.
        precision: Number format of weights and activations: ``"fp32"``, ``"bf16"``, ``"fp16"`` or ``"int8"``.
    """

    table: str | None = Field(default=None, min_length=1)
    force: bool = False
    margin: float | None = Field(default=None, ge=0, le=10)
    runtime: str = "torch"
    threads: int = Field(default=1, ge=1)
    batch_size: int = Field(default=1, ge=1)
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"

    @model_serializer(mode="wrap")
    def _without_newer_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out newer keys with their defaults, so that digests are those of release 0.2."""
        values: dict[str, Any] = handler(self)
        return {k: value for k, value in values.items() if (k, value) not in (("runtime", "torch"), ("margin", None))}


class SupernetSpec(Settings):
    """How a supernet is trained; `Recipe` still describes the training of its result.

    Every other key is an option of the strategy, whose own class checks it; see `nas_optuna.oneshot.strategies`.

    Attributes:
        strategy: ``"fair"`` trains shared weights on uniformly drawn paths, then learns alphas on the frozen weights.
            ``"darts"`` trains weights and alphas in turns or together by mixtures of all candidates, ``"gumbel"`` by
            drawn candidates. Also the name of your own strategy, as ``package.module:name`` or ``file.py:name``.
        alpha_init: ``"zero"``, or ``"uniform"`` in [0, 1) like the reference supernet.
        latency_loss: ``"linear"`` adds weight · E[latency] to the cross entropy; ``"fbnet"`` multiplies it by
            weight · log(1 + 1000 · E[latency])^power; ``"target"`` adds weight · max(0, E[latency] / target - 1).
        latency_weight: The weight; 0 ignores latency.
        latency_power: The power in ``"fbnet"``; by default 0.6.
        latency_target: The target in ``"target"``, in ms, or millions of MACs without a latency table.
        seed: Seed of weights, batch order and draws.
        options: Options of the space's own supernet that other supernets do not have.
    """

    model_config = ConfigDict(extra="allow")

    strategy: str = "fair"
    alpha_init: Literal["zero", "uniform"] = "zero"
    latency_loss: Literal["linear", "fbnet", "target"] = "linear"
    latency_weight: float = Field(default=0.0, ge=0)
    latency_power: float | None = Field(default=None, gt=0)
    latency_target: float | None = Field(default=None, gt=0)
    seed: int = Field(default=0, ge=0)
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def strategy_options(self) -> dict[str, Any]:
        """The keys of the strategy."""
        return dict(self.model_extra or {})

    @model_validator(mode="before")
    @classmethod
    def _of_release_0_2(cls, values: Any) -> Any:
        return supernet_section(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _honourable(self) -> SupernetSpec:
        if self.latency_power is not None and self.latency_loss != "fbnet":
            raise ValueError('latency_power belongs to latency_loss = "fbnet"')
        if (self.latency_target is not None) != (self.latency_loss == "target"):
            raise ValueError('latency_loss = "target" and latency_target need each other')
        if self.latency_loss != "linear" and self.latency_weight == 0:
            raise ValueError(f'latency_loss = "{self.latency_loss}" needs a latency_weight above 0')
        return self


def as_stored(name: str, given: Any) -> Any:
    """A range or choices of a setting, which may be a distribution of Optuna, as a database keeps it."""
    if not hasattr(given, "high"):
        return list(given.choices) if hasattr(given, "choices") else given
    is_whole = name in Recipe.model_fields and Recipe.model_fields[name].annotation is int
    step = None if is_whole and given.step == 1 else given.step  # any other is refused where ranges are read
    return {"low": given.low, "high": given.high, "log": given.log} | ({} if step is None else {"step": step})


class StudySpec(Settings):
    """Everything that defines a study.

    Attributes:
        data: The images.
        space: The search space.
        recipe: The training of each network.
        evaluator: Scores architectures, if it is not the built-in training; then `data` and `recipe` are not used.
        sampler: Proposes architectures.
        pruner: Stops unpromising trials.
        supernet: How a supernet of the space is trained.
        objectives: What is optimised, in order; see `nas_optuna.objectives`.
        limits: Largest allowed value of each cost, by name; an architecture above it is not trained.
        latency: How the cost ``latency_ms`` is determined.
        reuse_duplicates: Whether a repeated architecture takes over the value of its first training.
        fixed: Parameters that are pinned to one choice, by name.
        search: Settings of the recipe that each trial chooses beside its architecture, e.g.
            ``learning_rate = {low = 1e-4, high = 1e-1, log = true}``. A range or a list may also stand in ``[recipe]``.
        among: A file with the only architectures that may be proposed; None is the whole space.
        keep_paused: Bytes of stopped trainings to keep, so that they can be continued.
        reference: Your own network to compare with: ``file.py:function``, where the function takes a
            `nas_optuna.spaces.function.Task` and returns a module. It is trained like every trial.

    Examples:
        >>> spec = StudySpec.from_dict({"space": {"name": "conv", "depth": 2}, "limits": {"macs": 1e6}})
        >>> spec.override(["recipe.epochs=3"]).recipe.epochs
        3
    """

    data: DataSpec = DataSpec()
    space: SpaceSpec = SpaceSpec()
    recipe: Recipe = Recipe()
    evaluator: EvaluatorSpec = EvaluatorSpec()
    sampler: SamplerSpec = SamplerSpec()
    pruner: PrunerSpec = PrunerSpec()
    supernet: SupernetSpec = SupernetSpec()
    objectives: tuple[str, ...] = ("accuracy",)
    limits: dict[str, float] = Field(default_factory=dict)
    latency: LatencySpec = LatencySpec()
    reuse_duplicates: bool = True
    fixed: dict[str, bool | int | float | str] = Field(default_factory=dict)
    search: dict[str, Any] = Field(default_factory=dict)
    among: str | None = Field(default=None, min_length=1)
    keep_paused: float = Field(default=1e9, ge=0)
    reference: str | None = Field(default=None, min_length=1)

    @field_validator("keep_paused", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        number = value.strip().upper().removesuffix("B").strip()
        try:
            return 0 if number == "0" else parse_amount(number.replace("K", "k"))
        except SpecError:
            raise ValueError(f"{value[:40]!r} is not a number of bytes; write for example 1GB, 300MB or 0") from None

    @field_validator("objectives")
    @classmethod
    def _some_objectives(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError('name at least one objective, e.g. ["accuracy"]')
        try:
            objectives = [parse_criterion(text, imports=False) for text in value]
        except SpecError as error:
            raise ValueError(str(error)) from None
        if not any(objective.metric for objective in objectives):
            raise ValueError("costs alone need no search; add accuracy")
        names = tuple(objective.name for objective in objectives)  # one spelling of each is remembered
        if len(set(names)) != len(names):
            raise ValueError("an objective is named twice")
        return names

    @field_validator("limits", mode="before")
    @classmethod
    def _limits_on_costs(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        try:
            return parse_limits(value)
        except SpecError as error:
            raise ValueError(str(error)) from None

    @field_validator("search", mode="before")
    @classmethod
    def _ranges_as_they_are_stored(cls, value: Any) -> Any:
        """Accept Optuna's distributions, which no database keeps."""
        if not isinstance(value, Mapping):
            return value
        return {name: as_stored(name, given) for name, given in value.items()}

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, values: Any) -> Any:
        """Accept ``sampler = "random"`` for its name, and a range or a list in ``[recipe]`` for one in ``[search]``."""
        if not isinstance(values, Mapping):
            return values
        plugins = ("data", "space", "evaluator", "sampler", "pruner")
        found = {k: {"name": v} if k in plugins and isinstance(v, str) else v for k, v in values.items()}
        recipe, search = found.get("recipe"), found.get("search", {})
        if isinstance(recipe, Mapping):
            ranges = {k: v for k, v in recipe.items() if k != "input_size" and isinstance(v, list | dict)}
            if ranges:
                found["recipe"] = {k: v for k, v in recipe.items() if k not in ranges}
                found["search"] = {**search, **ranges} if isinstance(search, Mapping) else search
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "the study spec") -> StudySpec:
        """Validate parsed values.

        Args:
            values: Nested dicts, as `tomllib` or JSON gives them.
            source: Their source, for the error message.

        Raises:
            SpecError: The message names the first wrong key or value, and the remedy.
        """
        check_values(values, source)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SpecError(f"{source}: {first_problem(error, cls)}") from None

    @classmethod
    @checked
    def from_toml(cls, path: Path | str, overrides: Sequence[str] = ()) -> StudySpec:
        """Read a spec file.

        Args:
            path: The TOML file.
            overrides: ``"section.key=value"`` strings that win over the file, values written as in TOML.

        Raises:
            SpecError: The file is missing, is not TOML, or has an invalid key or value.
        """
        values = read_toml(Path(path))
        given = f"{named(path)} with overrides" if overrides else named(path)
        return cls.from_dict(with_overrides(values, overrides), given)

    @checked
    def override(self, overrides: Sequence[str], source: str = "an override") -> StudySpec:
        """This spec with ``"section.key=value"`` strings applied.

        Args:
            overrides: The strings.
            source: Their source, for messages.

        Raises:
            SpecError: As `from_toml`.
        """
        return self.from_dict(with_overrides(self.to_dict(), overrides, source), source) if overrides else self

    @checked
    def with_parts(
        self,
        *,
        space: str | None = None,
        sampler: str | None = None,
        pruner: str | None = None,
        seed: int | None = None,
    ) -> StudySpec:
        """This spec with other parts; None keeps a part.

        A new part starts with its default options, because those of the spec belong to the previous one.

        Args:
            space: Name of the search space.
            sampler: Name of the sampler.
            pruner: Name of the pruner.
            seed: Seed of the sampler's proposals.

        Examples:
            >>> StudySpec().with_parts(sampler="random", seed=3).sampler
            SamplerSpec(name='random', seed=3)
        """
        values = self.to_dict()
        for section, name in (("space", space), ("sampler", sampler), ("pruner", pruner)):
            if name is not None and name != values[section]["name"]:
                values[section] = {"name": name}
        values["sampler"]["seed"] = self.sampler.seed if seed is None else seed
        return self.from_dict(values)

    @property
    def trains(self) -> bool:
        """Whether our own training, by data and recipe, scores architectures."""
        return self.evaluator.name == "training"

    def goal(self, *, typed: bool = False) -> str:
        """Objectives and limits: in words for people, or by the names that are `typed`."""

        def called(name: str) -> str:
            return name if typed else describe(name).heading

        limits = ((called(name), describe(name), limit) for name, limit in self.limits.items())
        within = (f", {name} at {'least' if c.maximize else 'most'} {c.number(limit)}" for name, c, limit in limits)
        return " and ".join(map(called, self.objectives)) + "".join(within)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready nested dicts, as `from_dict` takes them."""
        return self.model_dump(mode="json")
