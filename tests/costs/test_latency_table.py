import dataclasses
import json
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas_optuna.costs.latency import BESIDE, check_table, compare, measure_table
from nas_optuna.costs.latency_kit import write_kit
from nas_optuna.costs.latency_table import LatencyTable
from nas_optuna.costs.runtimes import Conditions
from nas_optuna.costs.timing import fastest
from nas_optuna.errors import SpecError, TableError
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.conv import ConvSpace

SPACE = ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5), input_size=12)
HERE = Conditions.here(torch.device("cpu"))
OPERATIONS = {operation.key for operation in SPACE.reachable_operations()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.json"


def quick(path: Path, rounds: int = 2) -> LatencyTable:
    return measure_table(SPACE, HERE, path, rounds=rounds, seconds=0)


def test_a_table_has_every_operation_and_comes_back_from_its_file(path: Path) -> None:
    seen: list[tuple[int, int]] = []
    total = 2 * (len(OPERATIONS) + BESIDE)
    table = measure_table(SPACE, HERE, path, rounds=2, seconds=0, progress=lambda *n: seen.append(n))
    assert set(table.entries) == OPERATIONS
    assert {len(visits) for visits in table.entries.values()} == {2}
    assert len(table.networks) == BESIDE
    assert seen == [(i, total) for i in range(total + 1)]
    assert LatencyTable.load(path) == table
    assert list(path.parent.iterdir()) == [path]


def test_a_network_costs_the_sum_of_its_operations_and_the_overhead(path: Path) -> None:
    table = quick(path)
    architecture = SPACE.parse("f4k3s1-f8k5s2")
    visits = [table.entries[o.key] for o in SPACE.operations(architecture)]
    total = sum(min(a[1], b[1]) for a, b in visits)
    assert table.architecture_ms(SPACE, architecture) == pytest.approx(total + table.overhead_ms)
    told, measured = table.own_networks(SPACE)
    assert statistics.median(m - t for m, t in zip(measured, told, strict=True)) == pytest.approx(0)
    table.overhead_ms = 1.5
    assert table.architecture_ms(SPACE, architecture) == pytest.approx(total + 1.5)


def test_an_interrupted_table_goes_on_where_it_stopped(path: Path) -> None:
    def stop_at_seven(done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_table(SPACE, HERE, path, rounds=2, seconds=0, progress=stop_at_seven)
    before = LatencyTable.load(path).entries
    assert sum(map(len, [*before.values(), *LatencyTable.load(path).networks.values()])) == 7
    start: list[int] = []
    after = measure_table(SPACE, HERE, path, rounds=2, seconds=0, progress=lambda done, _: start.append(done))
    assert start[0] == 7
    assert set(after.entries) == OPERATIONS
    assert {len(visits) for visits in after.entries.values()} == {2}
    assert all(after.entries[key][0] == visits[0] for key, visits in before.items())


def test_a_table_never_lacks_its_overhead(path: Path) -> None:
    def stop_in_the_second_round(done: int, total: int) -> None:
        if done == total // 2 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_table(SPACE, HERE, path, rounds=2, seconds=0, progress=stop_in_the_second_round)
    table = LatencyTable.load(path)
    assert table.overhead_ms != 0
    table.model_copy(update={"overhead_ms": 0.0}).save(path)  # as a killed call of an earlier release has left it
    assert quick(path, rounds=1) == table


def test_an_overhead_is_fitted_to_networks_of_the_space_alone(path: Path) -> None:
    table = quick(path)
    before = table.overhead_ms
    table.fit_overhead(ConvSpace(depth=1, filters=(4, 8), kernels=(3, 5), input_size=12))  # none of it was measured
    assert table.overhead_ms == before


def test_a_finished_table_is_not_measured_again(path: Path) -> None:
    assert quick(path) == quick(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a sound latency table"),
        ('{"format": "nas-optuna lat', "is not a sound latency table"),
        ('{"format": "other", "space": "conv"}', "is not a sound latency table"),
        ("[1, 2]", "is not a sound latency table"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(path: Path, text: str, message: str) -> None:
    path.write_text(text)
    with pytest.raises(TableError, match=message) as caught:
        LatencyTable.load(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(TableError, match=message):
        quick(path)
    assert path.read_text() == text


@pytest.mark.parametrize("value", [-1.0, 0.0, "fast", None])
def test_a_latency_that_cannot_be_is_refused(path: Path, value: object) -> None:
    quick(path)
    content = json.loads(path.read_text())
    next(iter(content["entries"].values()))[0][1] = value
    path.write_text(json.dumps(content))
    with pytest.raises(TableError, match="entries"):
        LatencyTable.load(path)


@pytest.mark.parametrize(
    "other", [{"device_name": "Z80"}, {"version": "0.1"}, {"batch_size": 8}, {"threads": 7}, {"precision": "bf16"}]
)
def test_a_table_of_other_conditions_is_refused_and_left_alone(path: Path, other: dict[str, object]) -> None:
    quick(path)
    before = path.read_text()
    name, value = next(iter(other.items()))
    with pytest.raises(TableError, match=rf"{name.replace('_', ' ')} .*not {value!r}"):
        measure_table(SPACE, dataclasses.replace(HERE, **other), path, rounds=1)  # type: ignore[arg-type]
    assert path.read_text() == before


def test_a_missing_file_and_a_missing_operation_are_refused(path: Path) -> None:
    with pytest.raises(TableError, match="cannot read latency table"):
        LatencyTable.load(path)
    table = quick(path)
    larger = ConvSpace(depth=2, filters=(4, 8), kernels=(3, 5), input_size=20)
    with pytest.raises(TableError, match=r"no entry for 'conv filters=4 .*20x20"):
        table.architecture_ms(larger, larger.parse("f4k3s1-f8k5s2"))


def test_the_margin_covers_nineteen_of_twenty_of_the_tables_own_networks(path: Path) -> None:
    table = quick(path, rounds=1)
    architectures = SPACE.sample_distinct(30, random.Random(1))
    for share, networks in ((0.29, 30), (0.19, 20)):
        longer = {
            str(a): (1 + 0.01 * i) * table.architecture_ms(SPACE, a) for i, a in enumerate(architectures[:networks])
        }
        off = table.model_copy(update={"networks": {text: [(ms, ms, ms)] for text, ms in longer.items()}})
        assert off.margin(SPACE) == pytest.approx(share)
        faster = {text: [(ms / 2, ms / 2, ms / 2)] for text, ms in longer.items()}
        assert off.model_copy(update={"networks": faster}).margin(SPACE) == 0
    assert table.model_copy(update={"networks": {}}).margin(SPACE) is None


@pytest.mark.parametrize("options", [{"kernels": (3,)}, {"filters": (8,)}, {"strides": (1,)}])
def test_a_table_of_a_larger_space_tells_what_its_part_takes(path: Path, options: dict[str, tuple[int, ...]]) -> None:
    table = quick(path, rounds=1)
    part = ConvSpace(**{"depth": 2, "filters": (4, 8), "kernels": (3, 5), "input_size": 12, **options})  # type: ignore[arg-type]
    opened = LatencyTable.open(path, part)
    told, measured = opened.own_networks(part)
    inside = [text for text in table.networks if text in {str(architecture) for architecture in part.enumerate()}]
    assert 0 < len(told) == len(measured) == len(inside) < BESIDE
    architecture = part.parse(inside[0])
    assert opened.architecture_ms(part, architecture) == table.architecture_ms(SPACE, architecture)
    assert (opened.margin(part) or 0.0) >= 0
    outside = {text: visits for text, visits in table.networks.items() if text not in inside}
    table.model_copy(update={"networks": outside}).save(path)
    assert LatencyTable.open(path, part).margin(part) is None, "none of its networks is of the part"


def test_a_small_space_is_looked_up_where_all_its_networks_were_measured(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas_optuna.costs.latency_table.MOST_OPERATIONS", 0)
    tiny = ConvSpace(depth=1, filters=(4, 8), kernels=(3,), strides=(1, 2), input_size=12)
    table = measure_table(tiny, HERE, path, rounds=1, seconds=0)
    opened = LatencyTable.open(path, tiny)
    assert opened.whole
    for architecture in tiny.enumerate():
        assert opened.architecture_ms(tiny, architecture) == fastest(table.networks[str(architecture)])
    assert opened.margin(tiny) == 0
    with pytest.raises(TableError, match=r"holds all networks of space 'conv'.*nothing to check"):
        check_table(opened, tiny)
    del table.networks[next(iter(table.networks))]
    table.save(path)
    with pytest.raises(
        TableError, match="holds 3 whole networks, and space 'conv' with these options needs at least 4"
    ):
        LatencyTable.open(path, tiny)
    with pytest.raises(SpecError, match="needs at least 4 networks"):
        write_kit(tiny, path.parent / "kit", precisions=["fp32"], networks=3)
    assert len(write_kit(tiny, path.parent / "kit", precisions=["fp32"], networks=4)["networks"]) == 4


def test_whole_networks_of_other_options_tell_nothing_of_a_space(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas_optuna.costs.latency_table.MOST_OPERATIONS", 0)
    given: dict[str, Any] = {"depth": 1, "strides": (1, 2), "input_size": 12}
    measure_table(ConvSpace(filters=(4, 8), kernels=(3, 5), **given), HERE, path, rounds=1, seconds=0)
    with pytest.raises(TableError, match=r"holds 2 whole networks.* needs at least 8 of its own"):
        LatencyTable.open(path, ConvSpace(filters=(4, 16), kernels=(3, 7), **given))


def test_check_takes_other_networks_than_the_tables_own(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, built, build = quick(path, rounds=1), [], ConvSpace.build
    assert SPACE.size >= 2 * BESIDE

    def spy(space: ConvSpace, architecture: Architecture) -> nn.Module:
        built.append(str(architecture))
        return build(space, architecture)

    monkeypatch.setattr(ConvSpace, "build", spy)
    check_table(table, SPACE, networks=BESIDE, rounds=1, seconds=0)
    assert len(set(built)) == BESIDE
    assert not set(built) & set(table.networks)


def test_check_takes_the_table_as_it_is_used(path: Path) -> None:
    table = quick(path, rounds=1).model_copy(update={"overhead_ms": 50.0})
    check = check_table(table, SPACE, networks=5, rounds=1, seconds=0)
    assert min(check.table_ms) > 50
    assert check.error[0] > 1 > check.error[1]
    gaps = [m - t for m, t in zip(check.measured_ms, check.table_ms, strict=True)]
    assert check.overhead_ms == pytest.approx(50 + statistics.median(gaps))


def test_compare_finds_a_constant_overhead() -> None:
    table = [1.0, 2.0, 3.0, 4.0, 5.0]
    check = compare([t + 0.5 for t in table], table)
    assert check.overhead_ms == 0.5
    assert check.error == (pytest.approx(0.5 / 3.5), 0.0)
    assert check.overhead_helps
    assert check.spearman == pytest.approx(1)
    assert compare([5.0, 4.0, 3.0, 2.0, 1.0], table).spearman == pytest.approx(-1)


def test_compare_refuses_a_single_network() -> None:
    with pytest.raises(TableError, match="can be compared with 1 whole network of this space, and 2 are needed"):
        compare([1.0], [1.0])


def test_compare_does_not_fit_an_overhead_to_noise() -> None:
    check = compare([1.3, 1.7, 3.3, 3.7, 5.3, 5.7], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert not check.overhead_helps


def test_check_measures_each_network_of_a_small_space_once(path: Path) -> None:
    tiny = ConvSpace(depth=1, filters=(4, 8), kernels=(3,), strides=(1, 2), input_size=12)
    table = measure_table(tiny, HERE, path, rounds=1, seconds=0)
    check = check_table(table, tiny, networks=30, rounds=1, seconds=0)
    assert len(check.measured_ms) == len(check.table_ms) == tiny.size == 4
    assert min(check.measured_ms) > 0


@pytest.mark.slow
def test_the_table_ranks_networks_as_they_measure(path: Path) -> None:
    space = ConvSpace()
    check = check_table(measure_table(space, HERE, path, rounds=4), space)
    assert check.spearman >= 0.9
