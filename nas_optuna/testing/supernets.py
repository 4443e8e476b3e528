"""What every supernet must fulfil."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

import torch

from nas_optuna.costs.complexity import macs_table
from nas_optuna.randomness import seeded
from nas_optuna.spaces import Decomposable, SearchSpace
from nas_optuna.spaces.supernet import ChoiceWeights, supernet_for


class SupernetSuite(ABC):
    """Subclass it as ``class TestMine(SupernetSuite)`` and implement `make_space`.

    Attributes:
        architectures: How many random architectures each test looks at.
        tolerance: The largest difference of outputs that counts as none.

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
            tokens = dict(zip(space.parameters, space.tokens(architecture), strict=True))
            path = {name: ChoiceWeights(index, None) for name, index in tokens.items()}
            with torch.inference_mode():
                whole, alone = supernet(images, path), supernet.extract(architecture).eval()(images)
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
