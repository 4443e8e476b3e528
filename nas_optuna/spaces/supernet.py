"""What every supernet is: shared weights, one alpha vector for each Optuna parameter name, and its costs."""

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
"""How a forward pass treats a choice: the weighted sum of all, or one of them drawn."""


@dataclass(frozen=True)
class GumbelSample:
    """What was drawn for one step: the index of each parameter's choice, and with which noise and temperature."""

    indices: Mapping[str, int]
    noise: Mapping[str, Tensor]
    temperature: float


@dataclass(frozen=True)
class ChoiceWeights:
    """How the choices of one parameter enter one forward pass.

    Attributes:
        index: The one choice to compute, or None to mix them all.
        weights: ``[choices]``, non-negative, sum 1; or None where a drawn choice needs no gradient.
    """

    index: int | None
    weights: Tensor | None


@dataclass(frozen=True)
class Nested:
    """A parameter whose choices give first channels of what the largest of them gives, made by `narrow`."""

    name: str
    sizes: Sequence[int]
    narrow: Callable[[Tensor, int, int], Tensor]


@dataclass(frozen=True)
class Stage:
    """A part of the forward pass that some parameters decide; smaller choices of the nested one cost nothing."""

    names: tuple[str, ...]
    run: Callable[[Tensor, Mapping[str, ChoiceWeights]], Tensor]
    nested: Nested | None = None


CostModel = Callable[[Mapping[str, Tensor]], Tensor]
"""From one ``[choices]`` vector of probabilities a parameter to the expected cost of a network that is drawn from them:
exact, differentiable, a scalar in the table's unit."""


CERTAIN = 50.0
"""A logit beside zeros whose softmax is one, and which no Gumbel noise overtakes."""


class Supernet(nn.Module, ABC):
    """One network that holds every architecture of a space with shared weights.

    Each parameter of the space has a vector of logits, its alpha. So ``derive()`` is a params dict for
    ``optuna.trial.FixedTrial``, and ``prior()`` a distribution that a sampler can draw from.

    A subclass defines `forward`, `cost_model` and `extract`, and its space's ``supernet_class()`` returns the subclass
    itself. It is called as ``found(space, alpha_init=…, **options)``, where the options are its own keywords, and also
    without any of these, so that each has a default.

    Args:
        space: The space.
        alpha_init: ``"zero"`` starts without a preference; ``"uniform"`` draws every logit from [0, 1).

    Raises:
        SpecError: `alpha_init` is neither.

    Attributes:
        space: The space that it holds, which is `supported_subspace` of the one that it was made for.
        must_draw: Parameters whose choices cannot be mixed, since they change the shape of what follows.
        has_norm: Whether it has batch norm layers, whose statistics are wrong for a path until `recalibrate`.
        version: Raised whenever the same weights would give other outputs, so that weights which an earlier release
            trained are not taken for its own.
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
        # A list beside the space's names, because a ParameterDict refuses names with a dot.
        self._alphas = nn.ParameterList(nn.Parameter(start(len(p.choices))) for p in space.parameters.values())

    def stabilize_init(self) -> None:
        """Lessen initial weights that would let a training begin far above the loss of guessing; nothing by default.

        Strategy ``"fair"`` calls it once: its small steps, of which each choice gets few, would be spent on that.
        """

    @classmethod
    def supported_subspace(cls, space: SearchSpace) -> SearchSpace:
        """The part of a space that its supernet holds: all of it, unless a parameter can neither be mixed nor drawn."""
        return space

    @property
    def alphas(self) -> Mapping[str, nn.Parameter]:
        """Parameter name → logits ``[choices]`` (float32), in the space's order."""
        return dict(zip(self.space.parameters, self._alphas, strict=True))

    def alphas_of(self, whole: SearchSpace) -> dict[str, list[float]]:
        """The alphas as numbers for every parameter of a whole space, certain where the supernet holds one choice."""
        found = {name: alpha.detach().tolist() for name, alpha in self.alphas.items()}
        for name, parameter in whole.parameters.items():
            if len(found.get(name, ())) != len(parameter.choices):
                mine = self.space.parameters.get(name)
                kept = parameter.choices.index(mine.choices[0]) if mine else 0
                found[name] = [CERTAIN if i == kept else 0.0 for i in range(len(parameter.choices))]
        return {name: found[name] for name in whole.parameters}

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

        Compiles the table on every call; a loop calls `cost_model` once.

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
            draw: What was drawn. Mixed parameters do not use it.
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
        """The forward pass in parts, one after another.

        Whoever evaluates many architectures computes a part once for all that agree up to it. By default one part.
        """
        return (Stage(tuple(self.space.parameters), self),)

    def recalibrate(self, architecture: Architecture, loader: Iterable[tuple[Tensor, Tensor]], batches: int) -> None:
        """Set the statistics of batch norm layers to those of one architecture's path.

        Shared statistics are averages over all paths and fit none. A supernet without such layers does nothing. Whether
        a module is in training mode must be afterwards as it was before.

        Args:
            architecture: The path.
            loader: Batches of training images and labels, in the supernet's input size; labels are not used.
            batches: How many of them to use.
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


def supernet_class(space: SearchSpace) -> type[Supernet]:
    """The class of a space's supernet; a `SpecError` where it has none."""
    found = space.supernet_class()
    if found is None:
        raise SpecError(
            f"space {space.name!r} has no supernet; search it with a sampler instead, or define its supernet_class"
        )
    return found


def supernet_for(space: SearchSpace, **options: Any) -> Supernet:
    """Make one network that holds every architecture of the space with shared weights.

    Args:
        space: The space.
        options: The supernet's own options, e.g. ``alpha_init="uniform"``.

    Raises:
        SpecError: The space has no supernet, or an option or its value is refused.

    Examples:
        >>> from nas_optuna.spaces.block import BlockSpace
        >>> supernet_for(BlockSpace(depth=2)).derive()
        {'block1': 'k3_f16', 'block2': 'k3_f16'}
    """
    found = supernet_class(space)
    check_options("supernet", space.name, found, options, reserved=("space",))
    return found(space, **options)
