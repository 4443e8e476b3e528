"""The supernet of a function that builds networks, in which every `Choices.layer` holds all its candidates."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from nas_optuna.errors import NasOptunaError, SpecError, reason_of
from nas_optuna.randomness import seeded
from nas_optuna.spaces.architecture import Architecture, Choice
from nas_optuna.spaces.base import Operation, SearchSpace
from nas_optuna.spaces.built import BuiltSpace, ChainSpace, Part
from nas_optuna.spaces.layers import ElasticLayer
from nas_optuna.spaces.mixing import MixedLayer, Mixing, Optional, copied
from nas_optuna.spaces.shapes import TensorSpec, blaming, not_logits
from nas_optuna.spaces.supernet import ChoiceWeights, CostModel, Nested, Stage, Supernet

logger = logging.getLogger(__name__)


class FunctionSupernet(Supernet):
    """The function's network with every layer mixed and every elastic number open.

    Values (`choice`, `integer`) shape the network, and keep one choice: the largest if they are ordered, else the
    first. Pin others with the space's ``fix``. Its `space` is the part of the function's space with these values.
    """

    version = 4
    space: BuiltSpace

    def __init__(self, space: BuiltSpace, *, alpha_init: str = "zero") -> None:
        self._whole = space
        part, self.kept = _probe(space)
        super().__init__(part, alpha_init=alpha_init)
        mixing = Mixing(part)
        self.network = part.build_with(mixing)
        self.opened = mixing.opened
        self.mixed = {module.name for module in self.network.modules() if isinstance(module, MixedLayer)}
        self.unlike: dict[bool, str] = {}  # whether layers are drawn → where that is another network
        if not self.opened:
            raise SpecError(
                f"space {space.name!r} has no layer that a supernet could mix; write c.layer(…), or c.elastic(…) for"
                " the width of a layer of nas_optuna.layers"
            )
        self.has_norm = bool(self._norms())
        self.must_draw = frozenset(name for name, opened in self.opened.items() if opened.drawn)
        if self.kept:
            kept = ", ".join(f"{name} = {value}" for name, value in self.kept.items())
            logger.warning("the supernet of %s keeps %s; fix others to study them", space.name, kept)
        if not part.sequential:  # for the built-in spaces, tests compare all layers
            self._require_equal()

    @classmethod
    def supported_subspace(cls, space: SearchSpace) -> SearchSpace:
        """The function's space with one choice for each value: the largest if they are ordered, else the first."""
        assert isinstance(space, BuiltSpace)
        return _probe(space)[0]

    def stabilize_init(self) -> None:
        """See `Supernet.stabilize_init`."""
        self.space.stabilize_init(self.network)

    def _require_equal(self) -> None:
        """Compare the supernet with extracted networks for every label, and for the smallest of each elastic number."""
        choices: dict[str, Any] = {name: parameter.choices for name, parameter in self.space.parameters.items()}
        elastic = self.opened.keys() - self.mixed
        widest = {name: max(choices[name]) for name in elastic}
        training = self.training
        self.eval()
        with seeded(0):
            images = torch.randn(2, *self.space.input_shape)
        turns = range(max((len(choices[name]) for name in self.mixed), default=1))
        labels = {name: of for name, of in choices.items() if name in self.mixed}

        def compare(shift: int, smallest: Mapping[str, Choice]) -> None:
            for turn in turns:
                chosen = {n: of[0] for n, of in choices.items()}
                chosen |= {n: of[(turn + shift * i) % len(of)] for i, (n, of) in enumerate(labels.items())}
                self._compare(self.space.architecture({**chosen, **widest, **smallest}), images, smallest)

        with self._writing() as written:
            compare(0, {})
        # What a candidate does in place may matter to another layer, so labels are then also compared in pairs.
        for shift in turns[1:] if written else ():
            compare(shift, {})
        for name in filter(elastic.__contains__, choices):
            compare(0, {name: min(choices[name])})
        self.train(training)

    @contextmanager
    def _writing(self) -> Iterator[list[nn.Module]]:
        """The candidates that have changed their input in the block, also where torch does not count that."""
        given: list[Any] = []
        found: list[nn.Module] = []

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            before = tree_leaves(given.pop())
            pairs = zip(before, tree_leaves((args, kwargs)), strict=True)
            if any(isinstance(old, Tensor) and not torch.equal(old, new) for old, new in pairs):
                found.append(module)

        def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
            given.append(copied((args, kwargs)))

        with ExitStack() as hooks:
            for layer in [module for module in self.network.modules() if isinstance(module, MixedLayer)]:
                for candidate in itertools.compress(layer, layer.in_place):
                    hooks.enter_context(candidate.register_forward_pre_hook(enter, prepend=True, with_kwargs=True))
                    hooks.enter_context(candidate.register_forward_hook(leave, with_kwargs=True))
            yield found

    @torch.no_grad()
    def _compare(self, architecture: Architecture, images: Tensor, smallest: Mapping[str, Choice]) -> None:
        network, path = self.extract(architecture).eval(), self.path(architecture)
        said = next((f"{name} = {value}" for name, value in smallest.items()), str(architecture))
        certain = {n: F.one_hot(torch.tensor(pick.index), len(self.alphas[n])).float() for n, pick in path.items()}
        drawn = {n: ChoiceWeights(path[n].index, share) for n, share in certain.items()}
        mixed = drawn | {n: ChoiceWeights(None, certain[n]) for n in self.mixed}
        try:
            with seeded(1):
                before = torch.get_rng_state()
                expected = network(images.clone())  # a layer may write to its input
                draws = not torch.equal(before, torch.get_rng_state())
            tolerance = 1e-3 * max(float(expected.abs().max()), 1e-3)

            def differs(picks: Mapping[str, ChoiceWeights]) -> bool:
                with seeded(1):  # a layer may draw random numbers
                    logits = self._run(self.network, images.clone(), picks)
                return float((logits - expected).abs().max()) > tolerance

            wrong = differs(path)
            if smallest:  # elastic numbers are also compared as mixtures with one certain choice
                wrong = wrong or (True not in self.unlike and differs(drawn))
            elif not draws:  # in a mixture, other candidates might have drawn its numbers
                self.unlike |= {is_drawn: said for is_drawn, picks in ((True, drawn), (False, mixed)) if differs(picks)}
        except Exception as error:
            raise SpecError(f"the supernet of space {self.space.name!r} cannot have {said}: {error}") from error
        if wrong:
            remedy = (
                "what works on all channels together (a concatenation, a norm) cannot be elastic; use c.choice"
                if smallest
                else "its function must neither look into what c.layer gives, nor share weights between such layers,"
                " nor draw what is no weight (a buffer with persistent=False)"
            )
            raise SpecError(
                f"the supernet of space {self.space.name!r} computes something else than its network where {said}:"
                f" {remedy}"
            )

    def _norms(self) -> list[_BatchNorm]:
        return [m for m in self.network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]

    @torch.no_grad()
    def recalibrate(self, architecture: Architecture, loader: Iterable[tuple[Tensor, Tensor]], batches: int) -> None:
        """See `Supernet.recalibrate`; statistics become the plain mean over the batches."""
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

    def forward(self, images: Tensor, picks: Mapping[str, ChoiceWeights]) -> Tensor:
        """Logits ``[batch, classes]`` of images ``[batch, in_channels, height, width]``."""
        kinds = {picks[name].index is not None for name in self.mixed if picks[name].weights is not None}
        for where in (self.unlike[kind] for kind in kinds & self.unlike.keys()):
            raise SpecError(
                f"the layers of space {self.space.name!r} cannot be mixed: where {where}, a candidate changes its input"
                " in place, or what returns it is changed, and the network uses it again; write inplace=False, and"
                " y = y + x rather than y += x"
            )
        return self._run(self.network, images, picks)

    def _run(self, part: nn.Module, x: Tensor, picks: Mapping[str, ChoiceWeights]) -> Tensor:
        for name, opened in self.opened.items():
            opened.pick = picks[name]
        try:
            return cast(Tensor, part(x))
        finally:
            for opened in self.opened.values():
                opened.pick = None  # releases its autograd graph

    def stages(self) -> Sequence[Stage]:
        """One stage for each part of a chain; a single stage if the network is no chain."""
        if not isinstance(self.space, ChainSpace):
            return super().stages()

        def stage(part: Part, layer: nn.Module) -> Stage:
            names, nested = [*part.names, *(part.depth or ())[:1]], None
            narrows = getattr(layer, "nested", None)
            if narrows is not None and narrows.outputs.opens:
                nested = Nested(narrows.outputs.opens[0].name, narrows.outputs.choices, narrows.narrow)
                names.remove(nested.name)
            return Stage(tuple(names), lambda x, picks: self._run(layer, x, picks), nested)

        return tuple(map(stage, self.space.chain, self.network.children()))

    def cost_model(self, table: Mapping[str, float]) -> CostModel:
        """See `Supernet.cost_model`."""
        return _expected_cost(self.space, table, self._alphas[0].detach())

    @torch.no_grad()
    def extract(self, architecture: Architecture) -> nn.Module:
        """One architecture's own network with a copy of the shared weights."""
        used = self._whole.used(architecture)
        for name, value in used.items():
            if name in self.kept and value != self.kept[name]:
                raise SpecError(
                    f"the supernet keeps {name} = {self.kept[name]}, and {architecture} has {value}; pin it:"
                    f" --set 'space.fix={{\"{name}\" = …}}' (in Python overrides=['space.fix={{\"{name}\" = …}}'])"
                )
        device = self._alphas[0].device
        with seeded(0), torch.device(device):  # weights are drawn, to be overwritten
            network = self._whole.build(architecture)
        if any(isinstance(module, ElasticLayer) and module.scales_output for module in self.network.modules()):
            training = self.training
            self.eval()(torch.zeros(1, *self.space.input_shape, device=device), self.path(architecture))
            self.train(training)
        whole = self.network
        if isinstance(self.space, ChainSpace):  # shallow networks have fewer parts
            parts = zip(self.space.chain, whole.children(), strict=True)
            whole = nn.Sequential(*(layer for part, layer in parts if part.is_used(architecture.params)))
        _load(network, dict(_chosen_modules(whole, used, "")))
        return network


def _probe(space: BuiltSpace) -> tuple[BuiltSpace, dict[str, Choice]]:
    """The part of a space that its supernet holds, which takes its images, and the values kept."""
    mixing = Mixing(space)
    try:
        with torch.device("meta"):
            network, images = space.build_with(mixing), torch.empty(2, *space.input_shape)
        mixed = [module for module in network.modules() if isinstance(module, MixedLayer)]
        called = {
            m: f"candidate {x!r} of {each.name!r}" for each in mixed for x, m in zip(each.labels, each, strict=True)
        }
        with torch.no_grad(), blaming(network, called):  # a layer may draw a number on the CPU
            logits = network(images)
    except NasOptunaError:
        raise
    except Exception as error:
        raise SpecError(f"the supernet of space {space.name!r} cannot take its images: {reason_of(error)}") from error
    if problem := not_logits(tree_map(TensorSpec.of, logits), space.classes):
        raise SpecError(f"the supernet of space {space.name!r}: {problem}")
    kept = {name: value for name, value in mixing.answers.items() if len(space.parameters[name].choices) > 1}
    return space.fixed(kept) if kept else space, kept


def _chosen_modules(module: nn.Module, used: Mapping[str, Choice], path: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a supernet that an architecture uses, by their paths in its own network."""
    yield path, module
    for name, child in module._modules.items():
        if child is None:
            continue
        if isinstance(module, MixedLayer):  # the chosen candidate takes its place
            if module.name in used and int(name) == module.labels.index(used[module.name]):
                yield from _chosen_modules(child, used, path)
        elif isinstance(module, Optional):
            yield from _chosen_modules(child, used, path)
        else:
            yield from _chosen_modules(child, used, f"{path}.{name}".removeprefix("."))


def _load(network: nn.Module, shared: Mapping[str, nn.Module]) -> None:
    """Load the weights of shared modules; an elastic layer selects its weights of a choice itself."""
    state: dict[str, Tensor] = {}
    for path, target in network.named_modules(remove_duplicate=False):
        source = shared.get(path)
        if isinstance(source, ElasticLayer):
            state |= {f"{path}.{key}".removeprefix("."): value for key, value in source.state_for(target).items()}
    for key, mine in network.state_dict().items():
        if key in state:
            continue
        path, _, name = key.rpartition(".")
        found = shared[path].state_dict().get(name) if path in shared else None
        if found is None or found.shape != mine.shape:
            raise SpecError(
                f"layer {path!r} ({type(network.get_submodule(path)).__name__}) has the shape {list(mine.shape)}, in"
                f" the supernet {None if found is None else list(found.shape)}, and is not elastic; build it by"
                " nas_optuna.layers, or ask for its width by c.choice"
            )
        state[key] = found
    network.load_state_dict(state)


def _expected_cost(space: BuiltSpace, table: Mapping[str, float], like: Tensor) -> CostModel:
    """The exact expectation over a Markov chain, in which choices decide a step's cost and the next state."""
    # The probabilities of the states are carried from step to step, so nothing is drawn.
    absent: dict[str, None] = {}

    def price(operation: Operation) -> float:
        key = operation.key
        if key not in table:
            absent[key] = None
        return table.get(key, 0.0)

    steps = [
        (
            step.names,
            like.new_tensor(step.costs),
            torch.tensor(step.targets, device=like.device),
            max(step.targets) + 1,
            step.uses and (step.uses[0], like.new_tensor(step.uses[1])),
        )
        for step in space.cost_steps(price)
    ]
    if absent:
        raise SpecError(
            f"the cost table lacks {len(absent)} operations of this space, e.g. {next(iter(absent))!r};"
            " measure one for this space, its options and its input size"
        )

    def expected(probabilities: Mapping[str, Tensor]) -> Tensor:
        like = next(iter(probabilities.values()))
        state, total = like.new_ones(1), like.new_zeros(())
        for names, costs, targets, states, uses in steps:
            chosen = [probabilities[name] for name in names]
            joint = reduce(lambda a, b: torch.outer(a, b).flatten(), chosen, like.new_ones(1))
            weight = torch.outer(state, joint)
            share = 1.0 if uses is None else probabilities[uses[0]] @ uses[1]
            total = total + share * (weight * costs).sum()
            state = state.new_zeros(states).index_add(0, targets, weight.flatten())
        return total

    return expected
