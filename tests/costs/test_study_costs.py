from pathlib import Path

import optuna
import pytest
import torch

from nas_optuna.costs import complexity
from nas_optuna.costs.complexity import figures
from nas_optuna.costs.cost import Cost, CostContext
from nas_optuna.costs.latency import measure_table
from nas_optuna.costs.latency_table import LatencyTable
from nas_optuna.costs.runtimes import Conditions
from nas_optuna.costs.study_costs import Limits, StudyCosts, best_in_cost
from nas_optuna.errors import SpecError, TableError, TrainingError
from nas_optuna.experiment import Experiment
from nas_optuna.objectives import parse_criterion
from nas_optuna.quantities import Quantity
from nas_optuna.spaces import SearchSpace, create_space
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import LatencySpec, StudySpec

CPU = torch.device("cpu")
SPACE = ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5), input_size=12)
ARCHITECTURE = SPACE.parse("f4k3s1-f8k5s2")


def costs(space: SearchSpace = SPACE, **values: object) -> StudyCosts:
    spec = StudySpec.from_dict(values)
    optimised = [c.cost for c in map(parse_criterion, spec.objectives) if c.cost]
    return StudyCosts(space, CPU, optimised, list(spec.limits), spec.latency)


def limits(space: SearchSpace = SPACE, **values: object) -> Limits:
    return Limits(StudySpec.from_dict(values).limits, costs(space, **values))


def test_counted_costs_are_always_known() -> None:
    counted = figures(SPACE, ARCHITECTURE)
    assert costs()(ARCHITECTURE) == {
        "macs": counted.macs,
        "params": counted.params,
        "memory": counted.weight_bytes + counted.activation_bytes,
    }


def test_the_energy_is_that_of_one_image_of_a_batch() -> None:
    one, four = (
        costs(objectives=["accuracy", "energy_mj"], latency={"batch_size": size})(ARCHITECTURE)["energy_mj"]
        for size in (1, 4)
    )
    assert one - four == pytest.approx(figures(SPACE, ARCHITECTURE).weight_bytes * 3 / 4 * 160e-9)


@pytest.mark.parametrize(
    "values",
    [
        {"objectives": ["accuracy", "latency_ms"]},
        {"objectives": ["accuracy*(latency_ms/2)^-0.07"]},
        {"limits": {"latency_ms": 5}},
    ],
)
def test_latency_is_measured_where_it_is_needed(values: dict[str, object]) -> None:
    known = costs(**values)
    assert 0 < known(ARCHITECTURE)["latency_ms"] == known(ARCHITECTURE)["latency_ms"]


def test_measuring_draws_nothing_that_a_training_would_have_drawn() -> None:
    known = costs(objectives=["accuracy", "latency_ms"])
    before = torch.get_rng_state()
    known.refine(ARCHITECTURE, known(ARCHITECTURE))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_table_is_not_mixed_with_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.json"
    measure_table(SPACE, Conditions.here(CPU), path, rounds=1, seconds=0)
    monkeypatch.setattr("nas_optuna.costs.latency.measure", lambda *_: pytest.fail("measured"))
    known = costs(objectives=["accuracy", "latency_ms"], latency={"table": str(path)})
    assert known.refine(ARCHITECTURE, known(ARCHITECTURE)) == known(ARCHITECTURE)


def test_latency_comes_from_the_table(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    table = measure_table(SPACE, Conditions.here(CPU), path, rounds=1, seconds=0)
    known = costs(latency={"table": str(path)})
    assert known(ARCHITECTURE)["latency_ms"] == table.architecture_ms(SPACE, ARCHITECTURE)


def test_a_foreign_table_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    measure_table(SPACE, Conditions.here(CPU), path, rounds=1, seconds=0)
    path.write_text(path.read_text().replace(torch.__version__, "0.1"))
    with pytest.raises(TableError, match=r"version '0\.1', not .*--set latency\.force=true"):
        costs(latency={"table": str(path)})
    assert costs(latency={"table": str(path), "force": True})(ARCHITECTURE)["latency_ms"] > 0


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"precision": "int8"}, "precision 'fp32', not 'int8'; leave out latency.precision"),
        ({"runtime": "onnx"}, "runtime 'torch', not 'onnx'; leave out latency.runtime"),
        ({"threads": 2}, "threads 1, not 2; leave out latency.threads"),
    ],
)
def test_a_study_with_the_table_of_a_kit_is_not_begun_with_other_conditions_than_were_measured(
    tmp_path: Path, said: dict[str, object], says: str
) -> None:
    path = tmp_path / "table.json"
    table = measure_table(SPACE, Conditions.here(CPU), path, rounds=1, seconds=0)
    table.model_copy(update={"kit": "0123456789ab"}).save(path)
    space = {"name": "conv", "depth": 2, "filters": [4, 8], "kernels": [3, 5]}
    recipe, latency = {"input_size": 12, "epochs": 1}, {"table": str(path)}

    def experiment(**more: object) -> Experiment:
        values = {"space": space, "recipe": recipe, "latency": {**latency, **more}}
        return Experiment.from_spec(StudySpec.from_dict(values), device="cpu")

    with pytest.raises(TableError, match=f"^latency table .*table.json was measured with {says}$"):
        experiment(**said).create(optuna.storages.InMemoryStorage(), "s")
    for usual in ({}, {"batch_size": 8}, {**said, "force": True}):
        experiment(**usual).create(optuna.storages.InMemoryStorage(), "s")


def test_excess_is_a_share_of_the_limit() -> None:
    macs = figures(SPACE, ARCHITECTURE).macs
    excess = limits(limits={"macs": macs / 2, "params": 1e9}).excess(costs()(ARCHITECTURE))
    assert excess["macs"] == pytest.approx(1.0)
    assert -1 < excess["params"] < 0


@pytest.mark.parametrize("depth", [2, 6])
@pytest.mark.parametrize("name", ["macs", "params", "memory"])
def test_a_limit_that_nothing_meets_is_refused_with_the_smallest_possible(name: str, depth: int) -> None:
    space = ConvSpace(depth=depth)
    smallest = costs(space)(space.parse("-".join(["f16k3s2"] * depth)))[name]
    with pytest.raises(
        SpecError, match=rf"no architecture has {name} .*smallest (possible|found) is {smallest:,.7g}, of f16k"
    ):
        limits(space, limits={name: smallest - 1}).check()
    limits(space, limits={name: smallest}).check()


def test_a_limit_is_met_by_one_network_among_costly_neighbours() -> None:
    space = ConvSpace(depth=1)
    *others, last = space.enumerate()
    found = {architecture: 10.0 + 10 * i for i, architecture in enumerate(others)} | {last: 1.0}

    class Trap(Cost):
        """A cost of one's own, whose descent ends far from its least value."""

        name = "trap"

        def __call__(self, architecture: Architecture) -> float:
            return found[architecture]

    known = costs(space)
    known._costs["trap"] = Trap(CostContext(space, CPU, LatencySpec()))
    known._quantities["trap"] = Quantity("trap", "minimize")
    assert best_in_cost(known, "trap") == last
    Limits({"trap": 2.0}, known).check()


def test_a_limit_on_a_measured_cost_is_met_by_the_first_network_at_once() -> None:
    space = create_space("residual", {}, in_channels=3, classes=10, input_size=16)
    before = complexity._network_figures.cache_info().misses
    limits(space, limits={"latency_ms": 1e6}).check()
    assert complexity._network_figures.cache_info().misses - before <= 2


def test_an_impossible_limit_is_refused_after_few_networks() -> None:
    space = create_space("residual", {}, in_channels=3, classes=10, input_size=16)
    before = complexity._network_figures.cache_info().misses
    with pytest.raises(
        SpecError, match=r"no architecture has macs of at most 5; the smallest found is .*; raise the limit"
    ):
        limits(space, limits={"macs": 5}).check()
    assert complexity._network_figures.cache_info().misses - before <= 60


def test_a_latency_that_nothing_meets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no architecture has latency_ms of at most 1e-06; the smallest possible is"):
        limits(limits={"latency_ms": 1e-6}).check()
    path = tmp_path / "table.json"
    table = measure_table(SPACE, Conditions.here(CPU), path, rounds=1, seconds=0)
    fast = min(table.entries, key=lambda key: table.entries[key][0][1])
    assert fast in LatencyTable.load(path).entries
    with pytest.raises(SpecError, match="smallest possible is"):
        limits(limits={"latency_ms": 1e-6}, latency={"table": str(path)}).check()


def off_by(tmp_path: Path, share: float) -> tuple[Path, float]:
    """A table whose whole networks take longer than it tells, and the latency that it tells of a network."""
    path = tmp_path / "table.json"
    table = measure_table(SPACE, Conditions.here(CPU), path, rounds=1, seconds=0)
    told = {text: table.architecture_ms(SPACE, SPACE.parse(text)) for text in table.networks}
    table.networks = {text: [((1 + share) * ms,) * 3] for text, ms in told.items()}  # type: ignore[misc]
    table.save(path)
    return path, told[max(told, key=told.__getitem__)]


def test_a_limit_leaves_room_for_the_error_of_its_table(tmp_path: Path) -> None:
    path, slowest = off_by(tmp_path, 0.25)
    given: dict[str, object] = {"limits": {"latency_ms": slowest}, "latency": {"table": str(path)}}
    limited = limits(**given)
    assert limited.excess({"latency_ms": slowest})["latency_ms"] == pytest.approx(0.25)
    assert limited.excess({"latency_ms": slowest / 1.251})["latency_ms"] < 0
    (said,) = limited.remarks()
    assert "latency_ms may be 25.0% more than predicted" in said
    for margin, excess in ((0, 0.0), (1, 1.0)):
        asked = limits(**given | {"latency": {"table": str(path), "margin": margin}})
        assert asked.excess({"latency_ms": slowest})["latency_ms"] == pytest.approx(excess)
    assert list(limits(**given | {"latency": {"table": str(path), "margin": 0}}).remarks()) == []


def test_a_limit_that_is_only_met_without_the_margin_is_refused(tmp_path: Path) -> None:
    path, _ = off_by(tmp_path, 1.0)
    known = costs(latency={"table": str(path)})
    least = min(known(a)["latency_ms"] for a in SPACE.enumerate())
    given: dict[str, object] = {"limits": {"latency_ms": 1.5 * least}, "latency": {"table": str(path)}}
    with pytest.raises(SpecError, match=r"with a margin of 100\.0% for its error; the smallest possible is"):
        limits(**given).check()
    limits(**given | {"latency": {"table": str(path), "margin": 0}}).check()


def test_an_error_that_nobody_knows_is_said(tmp_path: Path) -> None:
    path, slowest = off_by(tmp_path, 0.0)
    LatencyTable.load(path).model_copy(update={"networks": {}}).save(path)
    (said,) = limits(limits={"latency_ms": slowest}, latency={"table": str(path)}).remarks()
    assert "the error of latency_ms is not known" in said


def test_a_cost_of_ones_own_has_a_margin_too() -> None:
    class Speed(Cost):
        name, direction, margin = "speed", "maximize", 0.25  # type: ignore[assignment]

        def __call__(self, architecture: Architecture) -> float:
            return 10.0

    known = costs()
    known._costs["speed"] = Speed(CostContext(SPACE, CPU, LatencySpec()))
    known._quantities["speed"] = Quantity("speed", "maximize")
    excess = {bound: Limits({"speed": bound}, known).excess({"speed": 10.0})["speed"] for bound in (7.5, 7.6)}
    assert excess[7.5] == pytest.approx(0), "the true value is 7.5 at least"
    assert excess[7.6] > 0
    Speed.margin = 1.0  # type: ignore[assignment]
    assert Limits({"speed": 1e-9}, known).excess({"speed": 10.0})["speed"] > 0, "the true value may be 0"


@pytest.mark.parametrize("wrong", [None, "many", float("nan"), torch.ones(2)])
def test_a_cost_of_ones_own_gives_numbers(wrong: object) -> None:
    class Odd(Cost):
        name = "odd"
        gives: object = torch.tensor(3.0)

        def __call__(self, architecture: Architecture) -> float:
            return self.gives  # type: ignore[return-value]

        def refine(self, architecture: Architecture, so_far: float) -> float:
            return self.gives  # type: ignore[return-value]

    known = costs()
    known._costs = {"odd": Odd(CostContext(SPACE, CPU, LatencySpec()))}
    known._optimised = frozenset({"odd"})
    assert known(ARCHITECTURE) == {"odd": 3.0}
    assert type(known(ARCHITECTURE)["odd"]) is float
    Odd.gives = wrong
    for ask in (lambda: known(ARCHITECTURE), lambda: known.refine(ARCHITECTURE, {"odd": 3.0})):
        with pytest.raises(SpecError, match=r"cost 'odd' gave .* for f4k3s1-f8k5s2, not a number; correct its class"):
            ask()


def test_a_network_whose_latency_cannot_be_measured_fails_alone_whenever_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = costs(objectives=["accuracy", "latency_ms"])
    monkeypatch.setattr("nas_optuna.costs.latency.measure", lambda *_: [][0])
    for ask in (lambda: known(ARCHITECTURE), lambda: known.refine(ARCHITECTURE, {"latency_ms": 3.0})):
        with pytest.raises(TrainingError, match="costs of f4k3s1-f8k5s2 cannot be known: IndexError"):
            ask()
