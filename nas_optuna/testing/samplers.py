"""What every sampler must fulfil beside Optuna's own suites (`optuna.testing.pytest_samplers`)."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler

from nas_optuna.spaces import SearchSpace
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.study.optuna_internals import storage_of


class SamplerSuite(ABC):
    """Subclass it as ``class TestMine(SamplerSuite)`` and implement `make_sampler`.

    Attributes:
        trials: How many trials each test runs.

    Examples:
        >>> import optuna
        >>> class TestMine(SamplerSuite):
        ...     def make_sampler(self, space, seed):
        ...         return optuna.samplers.TPESampler(seed=seed)
    """

    trials: int = 15

    @abstractmethod
    def make_sampler(self, space: SearchSpace, seed: int) -> BaseSampler:
        """Make the sampler for a space."""

    def space(self) -> SearchSpace:
        """What is searched."""
        return ConvSpace(depth=2, filters=(4, 8, 16), kernels=(3, 5), input_size=8)

    def search(self, study: optuna.Study, trials: int) -> list[dict[str, object]]:
        """Run trials whose value is known at once, and return all params of the study."""
        space = self.space()
        widest = max(float(str(choice)) for choice in space.parameters["conv1.filters"].choices)

        def objective(trial: optuna.Trial) -> float:
            params = space.suggest(trial).params
            return float(str(params["conv1.filters"])) / widest - float(str(params["conv2.stride"]))

        study.optimize(objective, n_trials=trials)
        return [dict(trial.params) for trial in study.trials]

    def test_proposals_are_architectures_and_depend_on_the_seed_alone(self) -> None:
        """Two studies with one seed get the same proposals."""
        space, found = self.space(), []
        for _ in range(2):
            study = optuna.create_study(direction="maximize", sampler=self.make_sampler(space, 1))
            found.append(self.search(study, self.trials))
        assert found[0] == found[1]
        for params in found[0]:
            space.architecture(params)

    def test_a_search_goes_on_in_a_new_process(self) -> None:
        """A sampler that is made anew knows what the study knows."""
        space = self.space()
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{Path(folder) / 's.db'}"
            whole = optuna.create_study(direction="maximize", sampler=self.make_sampler(space, 1))
            parts = optuna.create_study(
                direction="maximize", sampler=self.make_sampler(space, 1), storage=url, study_name="s"
            )
            self.search(parts, self.trials // 2)
            parts.sampler = self.make_sampler(space, 1)
            assert self.search(parts, self.trials - self.trials // 2) == self.search(whole, self.trials)

    def test_several_workers_share_a_study(self) -> None:
        """Samplers that propose in turn, with trials unfinished, do not fail."""
        space = self.space()
        study = optuna.create_study(direction="maximize", sampler=self.make_sampler(space, 1))
        other = optuna.load_study(
            study_name=study.study_name, storage=storage_of(study), sampler=self.make_sampler(space, 2)
        )
        for i in range(self.trials):
            running = [worker.ask(dict(space.distributions())) for worker in (study, other)]
            for worker, trial in zip((study, other), running, strict=True):
                space.architecture(dict(trial.params))
                worker.tell(trial, float(i))
