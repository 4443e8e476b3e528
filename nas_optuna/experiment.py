"""From a study spec to the things it names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, GridSampler

from nas_optuna.costs.cost_model import Costs
from nas_optuna.data import SearchData, load_data
from nas_optuna.pruners import create_pruner
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.within_limits import WithinLimitsSampler
from nas_optuna.spaces import SearchSpace, create_space
from nas_optuna.spec import StudySpec
from nas_optuna.study.records import count


@dataclass(frozen=True)
class Search:
    """A spec's data, space, sampler and pruner, each checked.

    Attributes:
        spec: The spec that they were made from.
        data: Training and validation images.
        space: The search space for images of that kind.
        sampler: What proposes architectures.
        pruner: What stops trials.
    """

    spec: StudySpec
    data: SearchData
    space: SearchSpace
    sampler: BaseSampler
    pruner: BasePruner

    def sampler_within(self, costs: Costs) -> BaseSampler:
        """The sampler; in a study with limits, one that proposes inside them."""
        # A grid hands out its points in order, whatever it is asked.
        if not costs.limited or isinstance(self.sampler, GridSampler):
            return self.sampler
        spec = self.spec.sampler

        def make(seed: int) -> BaseSampler:
            return create_sampler(spec.name, self.space, seed, spec.options)

        return WithinLimitsSampler(make, self.space, costs.total_excess, spec.seed)

    def describe(self) -> str:
        """One line for a person."""
        size = f"{self.space.size:,}" if self.space.size < 1e9 else f"{self.space.size:.1e}"
        height, width = self.space.image_size
        goal = " and ".join(self.spec.objectives)
        goal += "".join(f", {name} at most {limit:,.6g}" for name, limit in self.spec.limits.items())
        return (
            f"{goal} on {self.data.name} ({len(self.data.train):,} training and {len(self.data.validation):,}"
            f" {self.spec.data.select_on} images, {height}×{width}), space {self.space.name} ({size} architectures),"
            f" sampler {self.spec.sampler.name}, pruner {self.spec.pruner.name},"
            f" {count(self.spec.recipe.epochs, 'epoch')}"
        )


def prepare(spec: StudySpec, data_directory: Path | None = None) -> Search:
    """Load and make what a spec names.

    Args:
        spec: The study spec.
        data_directory: Where data sets are; their default place without it.

    Raises:
        SpecError: A name or option is unknown, or a value is refused.
        DataError: The data set is absent or unusable.
    """
    data = load_data(spec.data, data_directory, input_size=spec.recipe.input_size)
    space = create_space(
        spec.space.name,
        spec.space.options,
        in_channels=data.train.channels,
        classes=len(data.train.classes),
        input_size=spec.recipe.input_size or data.train.side,
    )
    sampler = create_sampler(spec.sampler.name, space, spec.sampler.seed, spec.sampler.options)
    pruner = create_pruner(spec.pruner.name, spec.recipe.epochs, spec.pruner.options)
    return Search(spec, data, space, sampler, pruner)
