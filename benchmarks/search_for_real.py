r"""Does a supernet pay in a search in which every value is a training? Seeds, random search and size alone beside it.

`search_with_supernet.py` asks a table; here each proposal is trained alone, as a trial would be. A search is scored by
validation accuracy, as a user's is, so the best of many is also the luckiest. Therefore the network that a search has
found after 5, 10 and 25 trainings is trained again with two other seeds, on which nothing was chosen, and its mean test
accuracy is given as well.

``largest first`` trains random architectures in the order of their MACs: what knows size alone. A supernet costs as
much as a number of trainings, which take turns with its own epochs; the rows "at equal seconds" give every method
without a supernet that many more.

A finished search is a line of ``--results`` and is not done again; two processes can share the seeds.

    python benchmarks/search_for_real.py digits-quick --set data.validation_fraction=0.5 --set space.depth=3 \
        --set recipe.epochs=5 --set recipe.input_size=12 --results r.jsonl
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import statistics
from collections.abc import Iterator
from pathlib import Path

import optuna
import torch
from make_table import alone
from supernet_ranking import train

from nas_optuna.cli import set_defaults
from nas_optuna.costs.complexity import figures
from nas_optuna.data.search_data import load_test_images
from nas_optuna.execution.evaluator import Search
from nas_optuna.experiment import Experiment
from nas_optuna.presets import find_spec
from nas_optuna.samplers import create_sampler
from nas_optuna.samplers.prior import AS_LEARNED, SupernetSampler, WarmStartSampler
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import StudySpec
from nas_optuna.study.supernet_result import SupernetResult, write_result

BUDGETS = (5, 10, 25)
WITHOUT, WITH = ("largest first", "random", "tpe", "arch"), ("tpe", "evolution", "arch")
WARM_TRIALS = 5
AGAIN = (1, 2)
"""Seeds that train a search's choice again; the search itself uses seed 0."""
POOL = 2000
"""Random architectures among which the largest are looked for."""


class Trainings:
    """Architecture → validation accuracy of its training; each is trained once, whoever asks."""

    def __init__(self, search: Search) -> None:
        self.search = search
        data, like = search.spec.data, search.data.train
        self._test = load_test_images(data, like, input_size=search.space.input_size)
        self._known: dict[str, float] = {}

    def value(self, architecture: Architecture) -> float:
        """What a trial of it would have."""
        key = str(architecture)
        if key not in self._known:
            self._known[key] = [*alone(self.search, architecture.params, 0)][-1][0]
        return self._known[key]

    @functools.cache  # noqa: B019 - one object for the whole process
    def tested(self, architecture: Architecture) -> float:
        """Mean test accuracy of other trainings of it."""
        return statistics.fmean([*alone(self.search, architecture.params, seed, self._test)][-1][0] for seed in AGAIN)


def found_by(trainings: Trainings, study: optuna.Study, trials: int) -> list[tuple[str, float]]:
    """The architecture and value of each trial."""
    found = []
    for _ in range(trials):
        trial = study.ask()
        architecture = trainings.search.space.suggest(trial)
        found.append((str(architecture), trainings.value(architecture)))
        study.tell(trial, found[-1][1])
    return found


def largest_first(trainings: Trainings, seed: int, trials: int) -> list[tuple[str, float]]:
    space, rng = trainings.search.space, random.Random(seed)
    drawn = {
        space.architecture({name: rng.choice(p.choices) for name, p in space.parameters.items()}) for _ in range(POOL)
    }
    ordered = sorted(drawn, key=lambda a: (-figures(space, a).macs, str(a)))[:trials]
    return [(str(architecture), trainings.value(architecture)) for architecture in ordered]


def searches(trainings: Trainings, seed: int, settings: StudySpec) -> Iterator[dict[str, object]]:
    """Every method with one seed; the supernet's cost in trainings is a line, too."""
    space = trainings.search.space
    trained = train(trainings.search, settings.supernet.model_copy(update={"seed": seed}))
    cost = (trained.training_seconds + trained.choosing_seconds) / trained.alone_seconds
    yield {"method": "supernet", "seed": seed, "cost": cost}
    longest = max(BUDGETS)
    for name in WITH:
        sampler = create_sampler(name, space, seed, {})
        study = optuna.create_study(direction="maximize", sampler=sampler)
        write_result(
            study, SupernetResult(trained.found.alphas, starts=trained.found.starts, predictor=trained.found.predictor)
        )
        study.sampler = WarmStartSampler(sampler, SupernetSampler(space, seed, AS_LEARNED), trials=WARM_TRIALS)
        yield line(trainings, f"{name} + supernet", seed, found_by(trainings, study, longest), 0)
    for name in WITHOUT:
        trials = longest + round(cost)
        if name == "largest first":
            found = largest_first(trainings, seed, trials)
        else:
            sampler = create_sampler(name, space, seed, {})
            found = found_by(trainings, optuna.create_study(direction="maximize", sampler=sampler), trials)
        yield line(trainings, name, seed, found, round(cost))


def line(trainings: Trainings, method: str, seed: int, found: list[tuple[str, float]], cost: int) -> dict[str, object]:
    """What a search had after each budget, and after each with the supernet's cost in trainings on top."""
    space, result = trainings.search.space, {"method": method, "seed": seed}
    for place in sorted({*BUDGETS, *(budget + cost for budget in BUDGETS)}):
        best, value = max(found[:place], key=lambda pair: pair[1])
        tested = trainings.tested(space.parse(best))
        result[str(place)] = {"architecture": best, "validation": value, "test": tested}
    return result | {"cost": cost}


def show(lines: list[dict[str, object]]) -> None:
    costs = [entry["cost"] for entry in lines if entry["method"] == "supernet"]
    print(f"a supernet costs {statistics.fmean(costs):.1f} trainings ({min(costs):.1f} … {max(costs):.1f})")
    print(f"{'accuracy after trainings':24}" + "".join(f"{budget:^32}" for budget in BUDGETS))
    methods = list(dict.fromkeys(entry["method"] for entry in lines if entry["method"] != "supernet"))
    for title, extra in (("at equal trainings", 0), ("at equal seconds", 1)):
        print(title)
        for method in sorted(methods):
            own = [entry for entry in lines if entry["method"] == method]
            cells = []
            for budget in BUDGETS:
                at = [entry[str(budget + extra * entry["cost"])] for entry in own]
                cells.append(" / ".join(percent([cell[key] for cell in at]) for key in ("validation", "test")))
            print(f"{method:24}" + "".join(f"{cell:^32}" for cell in cells))
    print(f"{len(costs)} seeds; validation / test accuracy in percent, mean ± standard error")


def percent(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{100 * statistics.fmean(values):.2f} ± {100 * error:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", help="a preset or a study spec")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the spec")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--results", type=Path, default=Path("search-for-real.jsonl"))
    options = parser.parse_args()
    set_defaults("supernet")
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spec = StudySpec.from_toml(find_spec(options.spec), options.set)
    read = [json.loads(text) for text in options.results.read_text().splitlines()] if options.results.exists() else []
    trainings = Trainings(Experiment.from_spec(spec, device="cpu").search)
    for seed in options.seeds:
        if sum(entry["seed"] == seed for entry in read) == 1 + len(WITH) + len(WITHOUT):
            continue
        for entry in searches(trainings, seed, spec):
            if not any((entry["method"], seed) == (known["method"], known["seed"]) for known in read):
                with options.results.open("a") as opened:
                    opened.write(json.dumps(entry) + "\n")
                print(f"seed {seed}: {entry['method']}", flush=True)
    show([json.loads(text) for text in options.results.read_text().splitlines()])


if __name__ == "__main__":
    main()
