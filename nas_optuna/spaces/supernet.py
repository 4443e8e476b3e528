"""The contract of supernets: shared weights, one alpha vector per Optuna parameter, and an expected cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas_optuna.errors import SpecError
from nas_optuna.registry import check_options
from nas_optuna.spaces.architecture import Architecture, Choice
from nas_optuna.spaces.base import SearchSpace

Mode = Literal["mixture", "sampled"]
"""How a forward pass treats choices: as a weighted sum of all, or by drawing one."""


@dataclass(frozen=True)
class GumbelSample:
    """A draw for one step: the index of each parameter's choice, and the noise and temperature used."""

    indices: Mapping[str, int]
    noise: Mapping[str, Tensor]
    temperature: float


@dataclass(frozen=True)
class ChoiceWeights:
    """How the choices of one parameter enter one forward pass.

    Attributes:
        index: The one choice to compute, or None to mix them all.
        weights: ``[choices]``, non-negative, sum 1; None if a drawn choice needs no gradient.
    """

    index: int | None
    weights: Tensor | None


@dataclass(frozen=True)
class Nested:
    """A parameter whose smaller choices give the first channels of the largest one's output, by `narrow`."""

    name: str
    sizes: Sequence[int]
    narrow: Callable[[Tensor, int, int], Tensor]


@dataclass(frozen=True)
class Stage:
    """A part of the forward pass with its parameters; smaller choices of the nested one cost nothing."""

    names: tuple[str, ...]
    run: Callable[[Tensor, Mapping[str, ChoiceWeights]], Tensor]
    nested: Nested | None = None


CostModel = Callable[[Mapping[str, Tensor]], Tensor]
"""From a ``[choices]`` vector of probabilities per parameter to the expected cost of a network drawn from them: exact,
differentiable, a scalar in the table's unit."""


CERTAIN = 50.0
"""A logit so large beside zeros that its softmax is one, and that no Gumbel noise outweighs it."""


class Supernet(nn.Module, ABC):
    """One network that holds every architecture of a space with shared weights.

    Each parameter of the space has a vector of logits, its alpha. So ``derive()`` is a params dict for
    ``optuna.trial.FixedTrial``, and ``prior()`` a distribution for a sampler.

    A subclass defines `forward`, `cost_model` and `extract`, and its space's ``supernet_class()`` returns it. It is
    called with the space, and optionally with ``alpha_init`` and its own keyword options, so all of these need
    defaults.

    Args:
        space: The space.
        alpha_init: ``"zero"`` starts without preferences; ``"uniform"`` draws every logit from [0, 1).

    Raises:
        SpecError: `alpha_init` is neither.

    Attributes:
        space: The space that it holds: `supported_subspace` of the one it was made for.
        must_draw: Parameters whose choices cannot be mixed, because they change the shape of what follows.
        has_norm: Whether it has batch norm layers, whose statistics are wrong for a path until `recalibrate`.
        version: To be raised whenever the same weights give other outputs, so that weights from an earlier release are
            not reused.
    """

    version: int = 1
    must_draw: frozenset[str] = frozenset()
    has_norm: bool = False

    def __init__(self, space: SearchSpace, *, alpha_init: str = "zero") -> None:
        super().__init__()
        if alpha_init not in ("zero", "uniform"):
            raise SpecError(f"alpha_init {alpha_init!r} is unknown; choose 'zero' or 'uniform'")
        self.space = space
        start = torch.zeros if alpha_init == "zero" else torch.rand
        # A list, because a ParameterDict refuses names with a dot.
        self._alphas = nn.ParameterList(nn.Parameter(start(len(p.choices))) for p in space.parameters.values())

    def stabilize_init(self) -> None:
        """Reduce initial weights if training would begin far above the loss of guessing; does nothing by default.

        It is called once, unless the strategy trains alphas with the weights: each choice then gets few, small steps.
        """

    @classmethod
    def supported_subspace(cls, space: SearchSpace) -> SearchSpace:
        """The part of a space that its supernet holds: all of it, unless a parameter can neither be mixed nor drawn."""
        return space

    @property
    def alphas(self) -> Mapping[str, nn.Parameter]:
        """Parameter name → logits ``[choices]`` (float32), in the space's order."""
        return dict(zip(self.space.parameters, self._alphas, strict=True))

    def alphas_of(self, whole: SearchSpace) -> dict[str, Sequence[float]]:
        """The alphas as numbers for every parameter of a whole space; certain if the supernet holds one choice."""
        return widened({name: alpha.detach().tolist() for name, alpha in self.alphas.items()}, self.space, whole)

    @torch.no_grad()
    def set_alphas(self, logits: Mapping[str, Sequence[float]]) -> None:
        """Set the alphas of some parameters."""
        for name, values in logits.items():
            self.alphas[name].copy_(torch.tensor(values))

    def weights(self) -> Iterator[nn.Parameter]:
        """Every trainable parameter that is not an alpha."""
        alphas = set(map(id, self._alphas))
        return (p for p in self.parameters() if id(p) not in alphas)

    def probabilities(self) -> dict[str, Tensor]:
        """Parameter name → ``softmax(alpha)``, ``[choices]``, differentiable."""
        return {name: torch.softmax(alpha, 0) for name, alpha in self.alphas.items()}

    def prior(self) -> dict[str, list[float]]:
        """The probabilities as plain numbers: parameter name → one for each choice, in order."""
        return {name: p.detach().cpu().double().tolist() for name, p in self.probabilities().items()}

    def derive(self) -> dict[str, Choice]:
        """The most probable choice of every parameter: a params dict, valid for ``optuna.trial.FixedTrial``."""
        return {name: self.space.parameters[name].choices[int(alpha.argmax())] for name, alpha in self.alphas.items()}

    def expected_cost(self, table: Mapping[str, float]) -> Tensor:
        """The expected cost under ``softmax(alpha)``: a differentiable scalar in the table's unit.

        It compiles the table on every call; in a loop, call `cost_model` once.

        Args:
            table: ``Operation.key`` → cost, for every reachable operation of the space.

        Raises:
            SpecError: The table lacks an operation.
        """
        return self.cost_model(table)(self.probabilities())

    def picks(self, mode: Mode, draw: GumbelSample, *, differentiable: bool) -> dict[str, ChoiceWeights]:
        """How every parameter enters the next forward pass.

        A drawn choice that needs a gradient is straight-through: the forward pass sees one-hot weights, the
        backward pass those of the Gumbel-softmax (Jang et al. 2017, section 2.2).

        Args:
            mode: ``"mixture"`` mixes what can be mixed (DARTS); ``"sampled"`` draws everything.
            draw: The draw for parameters that are not mixed.
            differentiable: Whether alphas get a gradient.
        """
        return {
            name: self._pick(alpha, draw, name, mode == "mixture" and name not in self.must_draw, differentiable)
            for name, alpha in self.alphas.items()
        }

    def _pick(self, alpha: Tensor, draw: GumbelSample, name: str, mix: bool, differentiable: bool) -> ChoiceWeights:
        if mix:
            return ChoiceWeights(None, torch.softmax(alpha if differentiable else alpha.detach(), 0))
        index = draw.indices[name]
        if not differentiable:
            return ChoiceWeights(index, None)
        soft = torch.softmax((alpha + draw.noise[name]) / draw.temperature, 0)
        hard = torch.zeros_like(soft)
        hard[index] = 1
        return ChoiceWeights(index, hard + soft - soft.detach())

    def path(self, architecture: Architecture) -> dict[str, ChoiceWeights]:
        """The picks that compute one architecture with shared weights, and give alphas no gradient."""
        indices = self.space.tokens(architecture)
        return {name: ChoiceWeights(index, None) for name, index in zip(self.space.parameters, indices, strict=True)}

    def stages(self) -> Sequence[Stage]:
        """The forward pass in parts; by default one.

        To evaluate many architectures, a part is computed once for all that agree up to it.
        """
        return (Stage(tuple(self.space.parameters), self),)

    def recalibrate(self, architecture: Architecture, loader: Iterable[tuple[Tensor, Tensor]], batches: int) -> None:
        """Set the statistics of batch norm layers to those of one architecture's path; by default there are none.

        Shared statistics are averages over all paths and fit none. The training mode of modules must not change.

        Args:
            architecture: The path.
            loader: Batches of training images and labels, in the supernet's input size; labels are not used.
            batches: How many batches to use.
        """
        return

    @abstractmethod
    def forward(self, images: Tensor, picks: Mapping[str, ChoiceWeights]) -> Tensor:
        """Logits ``[batch, classes]`` of images ``[batch, in_channels, height, width]``."""

    @abstractmethod
    def cost_model(self, table: Mapping[str, float]) -> CostModel:
        """Compile a cost table for the alphas' device and dtype; raises as `expected_cost`."""

    @abstractmethod
    def extract(self, architecture: Architecture) -> nn.Module:
        """One architecture's own network, as ``space.build`` makes it, with a copy of the shared weights."""


def widened(alphas: Mapping[str, Sequence[float]], part: SearchSpace, whole: SearchSpace) -> dict[str, Sequence[float]]:
    """The alphas of a part of a space for every parameter of the whole; certain if the part has one choice."""
    found = dict(alphas)
    for name, parameter in whole.parameters.items():
        if len(found.get(name, ())) != len(parameter.choices):
            mine = part.parameters.get(name)
            kept = parameter.choices.index(mine.choices[0]) if mine else 0
            found[name] = [CERTAIN if i == kept else 0.0 for i in range(len(parameter.choices))]
    return {name: found[name] for name in whole.parameters}


def supernet_class(space: SearchSpace) -> type[Supernet]:
    """The class of a space's supernet; a `SpecError` if it has none."""
    found = space.supernet_class()
    if found is None:
        raise SpecError(
            f"space {space.name!r} has no supernet; search it with a sampler instead, or define its supernet_class"
        )
    return found


def supernet_for(space: SearchSpace, **options: Any) -> Supernet:
    """Make the supernet of a space with its own options, e.g. ``alpha_init``; a `SpecError` if it has none."""
    found = supernet_class(space)
    check_options("supernet", space.name, found, options, reserved=("space",))
    return found(space, **options)
