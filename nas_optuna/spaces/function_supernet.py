"""The supernet of a function that builds networks: every `Choices.layer` holds all its candidates."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor, nn

from nas_optuna.errors import NasOptunaError, SpecError
from nas_optuna.randomness import seeded
from nas_optuna.spaces.architecture import Architecture, Choice
from nas_optuna.spaces.base import Parameter
from nas_optuna.spaces.choices import Choices, made_module
from nas_optuna.spaces.function import FunctionSpace
from nas_optuna.spaces.supernet import CostModel, Pick, Supernet

logger = logging.getLogger(__name__)

_DECIDED = 50.0
"""A logit beside zeros whose softmax is one, and which no Gumbel noise overtakes."""


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
    """Builds all candidates of a layer; values are pinned."""

    def _make_layer(
        self, name: str, parameter: Parameter, candidates: Mapping[str, Callable[[], nn.Module]]
    ) -> nn.Module:
        self._decide(name, parameter)
        return MixedLayer(
            name, parameter.choices, [made_module(name, label, make) for label, make in candidates.items()]
        )


class FunctionSupernet(Supernet):
    """The function's network with every layer mixed.

    Values (`choice`, `integer`) shape the network, and are kept at one: the largest, where they are ordered, else the
    first. Pin others with the space's ``fix``. The alphas of values say so from the beginning.

    Args:
        space: The function's space.
        alpha_init: See `Supernet`.

    Raises:
        SpecError: No layer can be mixed, or the candidates of one give different shapes.

    Attributes:
        kept: The values that it has, by parameter.
        network: The function's network.
    """

    space: FunctionSpace

    def __init__(self, space: FunctionSpace, *, alpha_init: str = "zero") -> None:
        super().__init__(space, alpha_init=alpha_init)
        values = {name: p for name, p in space.parameters.items() if name not in space.layer_names}
        self.kept = {name: p.choices[-1 if p.ordered else 0] for name, p in values.items()}
        with torch.no_grad():
            for name, value in self.kept.items():
                self.alphas[name].fill_(0)[values[name].choices.index(value)] = _DECIDED
        self._require_mixable()
        self.network = space.build_with(_Mixing(self._decide))
        self.mixed = {m.name: m for m in self.network.modules() if isinstance(m, MixedLayer)}
        if not self.mixed:
            raise SpecError(f"space {space.name!r} has no layer that a supernet could mix; write c.layer(…)")
        chosen = [f"{name} = {value}" for name, value in self.kept.items() if len(values[name].choices) > 1]
        if chosen:
            logger.warning("the supernet of %s keeps %s; fix others to study them", space.name, ", ".join(chosen))

    def _decide(self, name: str, asked: Parameter) -> Choice:
        return self.kept[name] if name in self.kept else self.space.known(name, asked).choices[0]

    def _require_mixable(self) -> None:
        """Try the mixture on meta tensors, before anything is trained."""
        with torch.device("meta"):
            network = self.space.build_with(_Mixing(self._decide))
        try:
            with torch.no_grad():
                network(torch.empty(2, *self.space.input_shape, device="meta"))
        except NasOptunaError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())
            raise SpecError(f"the supernet of space {self.space.name!r} cannot take its images: {words}") from error

    def forward(self, images: Tensor, picks: Mapping[str, Pick]) -> Tensor:
        """Logits ``[batch, classes]`` of images ``[batch, in_channels, height, width]``."""
        for name, layer in self.mixed.items():
            layer.pick = picks[name]
        logits: Tensor = self.network(images)
        return logits

    def cost_model(self, table: Mapping[str, float]) -> CostModel:
        """The rest of the network, and the sum over layers of the candidates' expected costs: exact."""
        first = {name: p.choices[0] for name, p in self.space.parameters.items()} | self.kept
        like = self._alphas[0].detach()

        def cost(params: Mapping[str, Choice]) -> float:
            operations = self.space.operations(self.space.architecture(params))
            absent = [operation.key for operation in operations if operation.key not in table]
            if absent:
                raise SpecError(f"the cost table lacks {absent[0]!r}; measure one for this space")
            return sum(table[operation.key] for operation in operations)

        base = cost(first)
        extra = {
            name: like.new_tensor([cost({**first, name: label}) - base for label in layer.labels])
            for name, layer in self.mixed.items()
        }
        return _SumOfLayers(base, extra)

    def extract(self, architecture: Architecture) -> nn.Module:
        """One architecture's own network with a copy of the shared weights.

        Raises:
            SpecError: It has other values than the supernet.
        """
        used = self.space.used(architecture)
        for name, value in used.items():
            if name in self.kept and value != self.kept[name]:
                raise SpecError(
                    f"the supernet keeps {name} = {self.kept[name]}, and {architecture} has {value}; pin it:"
                    f" --set 'space.fix={{\"{name}\" = …}}'"
                )
        with seeded(0), torch.device(self._alphas[0].device):  # weights are drawn, to be overwritten
            network = self.space.build(architecture)
        state = self.network.state_dict()
        for path, layer in self.network.named_modules(remove_duplicate=False):
            if isinstance(layer, MixedLayer):
                chosen = f"{path}.{layer.labels.index(used[layer.name])}."
                mine = {key: state.pop(key) for key in list(state) if key.startswith(f"{path}.")}
                state |= {f"{path}.{k.removeprefix(chosen)}": v for k, v in mine.items() if k.startswith(chosen)}
        network.load_state_dict(state)
        return network

    def smallest(self) -> dict[str, Choice]:
        """The candidates with the fewest weights; the values that are kept."""
        found = {name: p.choices[0] for name, p in self.space.parameters.items()} | self.kept
        for name, layer in self.mixed.items():
            sizes = [sum(p.numel() for p in candidate.parameters()) for candidate in layer]
            found[name] = layer.labels[sizes.index(min(sizes))]
        return found


class _SumOfLayers(CostModel):
    def __init__(self, base: float, extra: Mapping[str, Tensor]) -> None:
        self._base = base
        self._extra = extra

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        parts = [probabilities[name] @ costs for name, costs in self._extra.items()]
        return reduce(torch.add, parts) + self._base
