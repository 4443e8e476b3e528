"""Suites for search spaces and their supernets."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

import optuna
import torch

from nas_optuna.costs.complexity import figures, macs_table, size
from nas_optuna.execution.evaluator import space_identity
from nas_optuna.randomness import seeded
from nas_optuna.spaces import Decomposable, SearchSpace
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.supernet import supernet_for


class SpaceSuite(ABC):
    """Subclass it as ``class TestMine(SpaceSuite)`` and implement `make_space`.

    Attributes:
        architectures: How many random architectures each test checks.

    Examples:
        >>> from nas_optuna import ConvSpace
        >>> class TestConv(SpaceSuite):
        ...     def make_space(self):
        ...         return ConvSpace(depth=2, input_size=8)
        >>> TestConv().test_text_and_back()
    """

    architectures: int = 10

    @abstractmethod
    def make_space(self) -> SearchSpace:
        """Make a small instance of the space, anew on each call."""

    def drawn(self, space: SearchSpace) -> list[Architecture]:
        """Random architectures, the same on each call."""
        rng = random.Random(0)
        return [space.sample(rng) for _ in range(self.architectures)]

    def test_text_and_back(self) -> None:
        """An architecture's string gives the same architecture back, on one line."""
        space = self.make_space()
        for architecture in self.drawn(space):
            text = str(architecture)
            assert "\n" not in text
            assert space.parse(text) == architecture
            assert space.architecture(architecture.params) == architecture
            assert space.from_tokens(space.tokens(architecture)) == architecture

    def test_suggestions_are_architectures(self) -> None:
        """Optuna's suggestions give the architecture of the same params."""
        space = self.make_space()
        for architecture in self.drawn(space):
            trial = optuna.trial.FixedTrial(dict(architecture.params))
            assert space.suggest(trial) == architecture
            assert set(trial.distributions) <= set(space.distributions())

    def test_networks_take_the_input_and_give_the_classes(self) -> None:
        """Every network maps a batch of inputs to finite logits, and gradients reach every weight that is used."""
        space = self.make_space()
        for architecture in self.drawn(space):
            with seeded(0):
                network = space.build(architecture)
                images = torch.randn(2, *space.input_shape)
            logits = network(images)
            assert logits.shape == (2, space.classes)
            assert bool(logits.isfinite().all())
            logits.sum().backward()
            assert any(weight.grad is not None for weight in network.parameters())

    def test_neighbours_differ_in_something_and_are_architectures(self) -> None:
        """A neighbour is another architecture of the space."""
        space = self.make_space()
        for architecture in self.drawn(space)[:3]:
            neighbours = list(space.neighbours(architecture))
            assert neighbours
            for neighbour in neighbours:
                assert neighbour != architecture
                assert space.architecture(neighbour.params) == neighbour

    def test_costs_are_counted(self) -> None:
        """Parameters are those of the network that is built."""
        space = self.make_space()
        for architecture in self.drawn(space)[:5]:
            counted = figures(space, architecture)
            assert counted.macs > 0
            assert size(space, architecture) == (counted.macs, counted.params), "macs differ from a count"
            assert counted.params == sum(weight.numel() for weight in space.build(architecture).parameters())

    def test_the_identity_is_the_same_for_the_same_space(self) -> None:
        """A study can go on in another process."""
        assert self.make_space().identity() == self.make_space().identity()

    def test_use_does_not_change_the_identity(self) -> None:
        """A space keeps computed values under names with an underscore, or each process would train networks anew."""
        space = self.make_space()
        before = space_identity(space)
        for architecture in self.drawn(space):
            size(space, architecture)
            space.build(architecture)
        assert space_identity(space) == before

    def test_operations_make_up_the_network(self) -> None:
        """If a space has operations, each can be built on its own, and all of them are reachable."""
        space = self.make_space()
        if not isinstance(space, Decomposable):
            return
        reachable = {operation.key for operation in space.reachable_operations()}
        for architecture in self.drawn(space)[:5]:
            operations = space.operations(architecture)
            assert {operation.key for operation in operations} <= reachable
            for operation in operations:
                made = operation.make()
                assert isinstance(made, torch.nn.Module)


class SupernetSuite(ABC):
    """Subclass it as ``class TestMine(SupernetSuite)`` and implement `make_space`.

    Attributes:
        architectures: How many random architectures each test checks.
        tolerance: The largest difference of outputs that counts as equal.

    Examples:
        >>> from nas_optuna import ConvSpace
        >>> class TestMine(SupernetSuite):
        ...     def make_space(self):
        ...         return ConvSpace(depth=2, input_size=8)
    """

    architectures: int = 5
    tolerance: float = 1e-5

    @abstractmethod
    def make_space(self) -> SearchSpace:
        """Make a small instance of a space whose supernet `supernet_for` finds."""

    def test_one_hot_paths_are_the_extracted_networks(self) -> None:
        """With one choice per parameter the supernet computes what the network that is extracted computes."""
        with seeded(0):
            supernet = supernet_for(self.make_space()).eval()
            space = supernet.space
            images = torch.randn(2, *space.input_shape)
        rng = random.Random(0)
        for _ in range(self.architectures):
            architecture = space.sample(rng)
            with torch.inference_mode():
                whole, alone = (
                    supernet(images, supernet.path(architecture)),
                    supernet.extract(architecture).eval()(images),
                )
            assert whole.shape == (2, space.classes)
            assert float((whole - alone).abs().max()) <= self.tolerance

    def test_every_parameter_has_an_alpha(self) -> None:
        """Alphas carry the names and the lengths of the space's parameters; the argmax is an architecture."""
        supernet = supernet_for(self.make_space())
        space = supernet.space
        lengths = {name: len(alpha) for name, alpha in supernet.alphas.items()}
        assert lengths == {name: len(parameter.choices) for name, parameter in space.parameters.items()}
        assert space.architecture(supernet.derive())

    def test_the_expected_cost_of_a_certain_choice_is_its_cost(self) -> None:
        """With all probability on one architecture the expectation is the sum of that one's operations."""
        supernet = supernet_for(self.make_space())
        space = supernet.space
        if not isinstance(space, Decomposable):
            return
        table = {key: float(macs) for key, macs in macs_table(space).items()}
        cost = supernet.cost_model(table)
        rng = random.Random(0)
        for _ in range(self.architectures):
            architecture = space.sample(rng)
            tokens = zip(space.parameters, space.tokens(architecture), strict=True)
            certain = {
                name: torch.nn.functional.one_hot(torch.tensor(i), len(space.parameters[name].choices)).float()
                for name, i in tokens
            }
            expected = sum(table[operation.key] for operation in space.operations(architecture))
            assert abs(float(cost(certain)) - expected) <= 1e-4 * expected
