"""The supernet of a function that builds networks: every `Choices.layer` holds all its candidates."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_optuna.errors import NasOptunaError, SpecError
from nas_optuna.randomness import seeded
from nas_optuna.spaces.architecture import Architecture, Choice
from nas_optuna.spaces.base import Parameter, SearchSpace
from nas_optuna.spaces.choices import Choices, made_module
from nas_optuna.spaces.elastic import Elastic, Open, Size
from nas_optuna.spaces.function import FunctionSpace
from nas_optuna.spaces.layers import ElasticLayer
from nas_optuna.spaces.supernet import CostModel, Pick, Supernet

logger = logging.getLogger(__name__)

Decide = Callable[[str, Parameter], Choice]


class MixedLayer(nn.ModuleList):
    """All candidates of one layer.

    Attributes:
        name: The parameter's name.
        labels: Of the candidates.
        pick: How they enter the next forward pass; None is a sum with equal weights.
    """

    def __init__(self, name: str, labels: tuple[Choice, ...], candidates: list[nn.Module]) -> None:
        super().__init__(candidates)
        self.name = name
        self.labels = labels
        self.pick: Pick | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The weighted sum of all candidates, or the drawn one alone, times its straight-through weight of one."""
        pick = self.pick
        if pick is not None and pick.index is not None:
            drawn: Tensor = self[pick.index](x)
            return drawn if pick.weights is None else drawn * pick.weights[pick.index]
        parts: list[Tensor] = [candidate(x) for candidate in self]
        for label, part in zip(self.labels[1:], parts[1:], strict=True):
            if part.shape != parts[0].shape:
                raise SpecError(
                    f"layer {self.name!r} cannot be mixed: for {list(x.shape)}, candidate {self.labels[0]!r} gives"
                    f" {list(parts[0].shape)} and {label!r} gives {list(part.shape)}"
                )
        if pick is None or pick.weights is None:
            return reduce(torch.add, parts) / len(parts)
        weighted: list[Tensor] = [w * part for w, part in zip(pick.weights, parts, strict=True)]
        return reduce(torch.add, weighted)


class _Mixing(Choices):
    """Builds all candidates of a layer, and leaves elastic widths open; values are pinned.

    Attributes:
        opened: Name of each elastic width → what its layers look at.
    """

    def __init__(self, decide: Decide) -> None:
        super().__init__(decide)
        self.opened: dict[str, Open] = {}

    def _make_layer(
        self, name: str, parameter: Parameter, candidates: Mapping[str, Callable[[], nn.Module]]
    ) -> nn.Module:
        self._decide(name, parameter)
        return MixedLayer(
            name, parameter.choices, [made_module(name, label, make) for label, make in candidates.items()]
        )

    def _make_elastic(self, name: str, parameter: Parameter) -> int:
        pinned = self._decide(name, parameter)
        if pinned is not None:
            return cast(int, pinned)
        opened = self.opened.setdefault(name, Open(name))
        return Elastic(Size(opened, cast(tuple[int, ...], parameter.choices)))


class FunctionSupernet(Supernet):
    """The function's network with every layer mixed and every elastic width open.

    Values (`choice`, `integer`) shape the network, and are kept at one: the largest, where they are ordered, else the
    first. Pin others with the space's ``fix``. Its `space` is the part of the function's space that has these values.

    Args:
        space: The function's space.
        alpha_init: See `Supernet`.

    Raises:
        SpecError: Nothing can be mixed, the candidates of a layer give different shapes, or a layer of an elastic
            width is not elastic.

    Attributes:
        kept: The values that it has, by parameter.
        network: The function's network.
    """

    space: FunctionSpace

    def __init__(self, space: FunctionSpace, *, alpha_init: str = "zero") -> None:
        self._whole = space
        part = cast(FunctionSpace, self.covered(space))
        super().__init__(part, alpha_init=alpha_init)
        mixing = _Mixing(_decider(part))
        self.network = part.build_with(mixing)
        self.opened = mixing.opened
        self.mixed = {m.name: m for m in self.network.modules() if isinstance(m, MixedLayer)}
        self.kept = {
            n: p.choices[0] for n, p in part.parameters.items() if n not in self.mixed and n not in self.opened
        }
        if not self.mixed and not self.opened:
            raise SpecError(
                f"space {space.name!r} has no layer that a supernet could mix; write c.layer(…), or c.elastic(…) for"
                " the width of a layer of nas_optuna.layers"
            )
        self.has_norm = bool(self._norms())
        chosen = [f"{name} = {value}" for name, value in self.kept.items() if len(space.parameters[name].choices) > 1]
        if chosen:
            logger.warning("the supernet of %s keeps %s; fix others to study them", space.name, ", ".join(chosen))
        self._require_elastic()

    @classmethod
    def covered(cls, space: SearchSpace) -> SearchSpace:
        """The function's space with one choice for each value: the largest where they are ordered, else the first.

        Raises:
            SpecError: The mixture of all candidates cannot take the images.
        """
        assert isinstance(space, FunctionSpace)
        kept: dict[str, Choice] = {}
        decide = _decider(space, kept)
        try:
            with torch.device("meta"), torch.no_grad():
                space.build_with(_Mixing(decide))(torch.empty(2, *space.input_shape))
        except NasOptunaError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())
            raise SpecError(f"the supernet of space {space.name!r} cannot take its images: {words}") from error
        open_ones = {name: value for name, value in kept.items() if len(space.parameters[name].choices) > 1}
        return space.fixed(open_ones) if open_ones else space

    def _require_elastic(self) -> None:
        """Compare every elastic width, at its smallest, with networks of their own, before anything is trained."""
        if not self.opened:
            return
        first = {name: p.choices[0] for name, p in self.space.parameters.items()}
        widest = {name: max(cast(tuple[int, ...], self.space.parameters[name].choices)) for name in self.opened}
        training = self.training
        self.eval()
        with seeded(0), torch.no_grad():
            images = torch.randn(2, *self.space.input_shape)
            for name in self.opened:
                smallest = min(cast(tuple[int, ...], self.space.parameters[name].choices))
                for turn in range(max((len(layer) for layer in self.mixed.values()), default=1)):
                    labels = {n: layer.labels[turn % len(layer)] for n, layer in self.mixed.items()}
                    params = {**first, **widest, **labels, name: smallest}
                    self._compare(self.space.architecture(params), images, f"{name} = {smallest}")
        self.train(training)

    def _compare(self, architecture: Architecture, images: Tensor, said: str) -> None:
        network = self.extract(architecture).eval()
        certain = {
            name: Pick(pick.index, F.one_hot(torch.tensor(pick.index), len(self.alphas[name])).float())
            for name, pick in self.path(architecture).items()
        }
        try:
            expected = network(images)
            found = [self(images, self.path(architecture)), self(images, certain)]
        except Exception as error:
            raise SpecError(f"the supernet of space {self.space.name!r} cannot have {said}: {error}") from error
        size = float(expected.abs().max())
        if any(float((logits - expected).abs().max()) > 1e-3 * max(size, 1e-3) for logits in found):
            raise SpecError(
                f"the supernet of space {self.space.name!r} computes something else than its network where {said}:"
                " what works on all channels together (a concatenation, a norm) cannot be elastic; use c.choice"
            )

    def _norms(self) -> list[_BatchNorm]:
        return [m for m in self.network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]

    @torch.no_grad()
    def recalibrate(self, architecture: Architecture, loader: Iterable[tuple[Tensor, Tensor]], batches: int) -> None:
        """Set the running statistics of one path to the plain mean over some batches; see `Supernet.recalibrate`."""
        norms, path, training = self._norms(), self.path(architecture), self.training
        momenta = [norm.momentum for norm in norms]
        self.eval()  # dropout stays off
        for norm in norms:
            norm.train()
        for number, (images, _) in enumerate(itertools.islice(loader, batches), start=1):
            for norm in norms:
                norm.momentum = 1 / number
            self(images, path)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.train(training)

    def forward(self, images: Tensor, picks: Mapping[str, Pick]) -> Tensor:
        """Logits ``[batch, classes]`` of images ``[batch, in_channels, height, width]``."""
        parts: dict[str, MixedLayer | Open] = {**self.mixed, **self.opened}
        for name, part in parts.items():
            part.pick = picks[name]
        try:
            return cast(Tensor, self.network(images))
        finally:
            for part in parts.values():
                part.pick = None  # it holds a graph

    def cost_model(self, table: Mapping[str, float]) -> CostModel:
        """For all elastic widths together, the rest of the network and the sum over layers: exact.

        Raises:
            SpecError: The table lacks an operation.
        """
        first = {name: p.choices[0] for name, p in self.space.parameters.items()}
        like = self._alphas[0].detach()

        def cost(params: Mapping[str, Choice]) -> float:
            operations = self.space.operations(self.space.architecture(params))
            absent = [operation.key for operation in operations if operation.key not in table]
            if absent:
                raise SpecError(f"the cost table lacks {absent[0]!r}; measure one for this space")
            return sum(table[operation.key] for operation in operations)

        parts = []
        for values in itertools.product(*(self.space.parameters[name].choices for name in self.opened)):
            widths = dict(zip(self.opened, values, strict=True))
            base = cost({**first, **widths})
            extra = {
                name: like.new_tensor([cost({**first, **widths, name: label}) - base for label in layer.labels])
                for name, layer in self.mixed.items()
            }
            places = {name: self.space.parameters[name].choices.index(value) for name, value in widths.items()}
            parts.append((places, base, extra))
        return _SumOfLayers(parts)

    def extract(self, architecture: Architecture) -> nn.Module:
        """One architecture's own network with a copy of the shared weights.

        Raises:
            SpecError: It has other values than the supernet, or a layer of an elastic width is not elastic.
        """
        used = self._whole.used(architecture)
        for name, value in used.items():
            if name in self.kept and value != self.kept[name]:
                raise SpecError(
                    f"the supernet keeps {name} = {self.kept[name]}, and {architecture} has {value}; pin it:"
                    f" --set 'space.fix={{\"{name}\" = …}}'"
                )
        with seeded(0), torch.device(self._alphas[0].device):  # weights are drawn, to be overwritten
            network = self._whole.build(architecture)
        modules = list(self.network.named_modules(remove_duplicate=False))
        elastic = {path for path, module in modules if isinstance(module, ElasticLayer)}
        shared = {key: (key.rpartition(".")[0] in elastic, value) for key, value in self.network.state_dict().items()}
        for path, layer in reversed(modules):  # inner ones first
            if isinstance(layer, MixedLayer) and layer.name in used:
                chosen = f"{path}.{layer.labels.index(used[layer.name])}"
                mine = {key: shared.pop(key) for key in list(shared) if key.startswith(f"{path}.")}
                shared |= {f"{path}{k.removeprefix(chosen)}": v for k, v in mine.items() if k.startswith(f"{chosen}.")}
        _load(network, shared)
        return network

    def smallest(self) -> dict[str, Choice]:
        """The candidates with the fewest weights, the smallest widths, and the values that are kept."""
        found = {name: p.choices[0] for name, p in self.space.parameters.items()}
        for name in self.opened:
            found[name] = min(cast(tuple[int, ...], self.space.parameters[name].choices))
        for name, layer in self.mixed.items():
            sizes = [sum(p.numel() for p in candidate.parameters()) for candidate in layer]
            found[name] = layer.labels[sizes.index(min(sizes))]
        return found


def _decider(space: FunctionSpace, kept: dict[str, Choice] | None = None) -> Decide:
    """Answers a mixture's questions: None for an open width, the first label for a layer, and one choice for a value.

    Args:
        space: The function's space.
        kept: Filled with the choice of each value.
    """

    def decide(name: str, asked: Parameter) -> Choice:
        parameter = space.known(name, asked)
        if name in space.layer_names or len(parameter.choices) == 1:
            return parameter.choices[0]
        if name in space.elastic_names:
            return None
        value = parameter.choices[-1 if parameter.ordered else 0]
        if kept is not None:
            kept[name] = value
        return value

    return decide


def _load(network: nn.Module, shared: Mapping[str, tuple[bool, Tensor]]) -> None:
    """Load shared weights; the weights of an elastic layer are the first part of the shared ones.

    Args:
        network: An architecture's own network.
        shared: Name of each weight and buffer → whether its layer is elastic, and its value.

    Raises:
        SpecError: Naming the layer that has another shape and is not elastic, or that the supernet does not have.
    """
    state = {}
    for key, mine in network.state_dict().items():
        path = key.rpartition(".")[0]
        layer = f"layer {path!r} ({type(network.get_submodule(path)).__name__})"
        if key not in shared:
            raise SpecError(f"{layer} is not in the supernet: the function builds other layers for other widths")
        elastic, value = shared[key]
        if value.shape != mine.shape and not elastic:
            raise SpecError(
                f"{layer} has the shape {list(mine.shape)}, in the supernet {list(value.shape)}, and is not elastic;"
                f" build it by nas_optuna.layers, or ask for its width by c.choice"
            )
        state[key] = value[tuple(map(slice, mine.shape))]
    network.load_state_dict(state)


class _SumOfLayers(CostModel):
    """Sums of layers' costs, one for each combination of widths.

    Args:
        parts: Parameter of a width → index of its choice; the cost with first choices; parameter of a layer → what each
            of its choices adds, ``[choices]``.
    """

    def __init__(self, parts: Sequence[tuple[Mapping[str, int], float, Mapping[str, Tensor]]]) -> None:
        self._parts = parts

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        total = []
        for places, base, extra in self._parts:
            share = [probabilities[name][place] for name, place in places.items()]
            layers = [probabilities[name] @ costs for name, costs in extra.items()]
            expected = reduce(torch.add, layers, next(iter(probabilities.values())).new_tensor(base))
            total.append(reduce(torch.mul, share, expected))
        return reduce(torch.add, total)
