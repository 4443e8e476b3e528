"""A fit whose limit is below the network that it would begin with."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from optuna.trial import create_trial

import nas_optuna as nas
from nas_optuna.errors import Interrupted, SpecError
from nas_optuna.experiment import Experiment
from nas_optuna.fitting import spec as fit_spec
from nas_optuna.fitting.spec import decided_before, larger_space, smaller_space, spec_for, wider_space
from nas_optuna.study.schema import TrialKey
from nas_optuna.training import TrainStep, network
from tests.fitting.conftest import Limited, fit_limited

CPU = torch.device("cpu")
SHORT = ("data.train_limit=400",)


@pytest.mark.parametrize("most", [1_000_000, 3_000])
def test_a_space_has_its_reference_inside_the_limit(most: int) -> None:
    spec = spec_for("digits", limits={"params": most})
    data = nas.load_data(spec.data)
    smaller = spec.override(smaller_space(spec, data, CPU))
    experiment = Experiment.from_spec(smaller, device="cpu", images=lambda: data)
    reference = experiment.space.reference
    assert reference is not None
    assert experiment.objective.costs(reference, ["params"])["params"] < 3 * most
    assert (smaller == spec) is (most == 1_000_000)


def test_a_limit_below_every_network_is_refused_with_the_smallest_that_a_fit_could_make() -> None:
    spec = spec_for("digits", limits={"params": 500})
    smaller = spec.override(smaller_space(spec, nas.load_data(spec.data), CPU))
    with pytest.raises(SpecError, match=r"no architecture has params of at most 500; the smallest found is 7\d\d, "):
        Experiment.from_spec(smaller, device="cpu")


def test_a_fit_that_began_before_a_setting_was_there_goes_on_without_it() -> None:
    spec = spec_for("digits")
    assert spec.recipe.progressive == "auto"
    before = spec.override(["recipe.progressive=0"])
    assert decided_before(spec, before) == before
    named = spec_for("digits", overrides=["recipe.progressive=0.5"])
    assert decided_before(named, before) == named
    assert spec_for("digits", space="backbone").recipe.progressive == 0


@pytest.mark.parametrize(
    ("seconds", "given", "wider"), [(1e4, (), True), (0.5, (), False), (1e4, ("space.width=16",), False)]
)
def test_a_space_is_as_wide_as_the_time_allows(seconds: float, given: tuple[str, ...], wider: bool) -> None:
    spec = spec_for("digits", overrides=[*SHORT, *given])
    found = wider_space(Experiment.from_spec(spec, device="cpu"), seconds)
    assert bool(found) is wider
    stored = spec.override(found)
    assert decided_before(spec, stored) == stored  # if the fit is repeated in less time


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ('fixed={"stage1.width" = 32}', False),
        ('space.fix={"stage1.width" = 32}', False),
        ("among", False),
        ('latency.table="table.json"', False),
        ('fixed={"activation" = "silu"}', True),
    ],
)
def test_a_space_keeps_the_size_of_which_a_pinned_value_a_list_or_a_table_is(
    given: str, changes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_spec, "PASSES", 0)
    monkeypatch.setattr(fit_spec, "time_reference", lambda *_: SimpleNamespace(step=1.0))
    experiment = Experiment.from_spec(spec_for("digits", overrides=SHORT), device="cpu")
    if given == "among":
        (tmp_path / "listed").write_text(str(experiment.space.reference))
        given = f"among={json.dumps(str(tmp_path / 'listed'))}"
    experiment = replace(experiment, spec=experiment.spec.override([given]))
    assert bool(wider_space(experiment, 1.0)) is changes


def test_a_limit_makes_no_space_so_small_that_it_lacks_a_pinned_value() -> None:
    spec = spec_for("digits", limits={"params": "20k"}, overrides=[*SHORT, 'fixed={"stage3.width" = 64}'])
    data = nas.load_data(spec.data)
    found = spec.override(smaller_space(spec, data, CPU))
    assert found != spec
    assert 64 in Experiment.from_spec(found, device="cpu", images=lambda: data).space.parameters["stage3.width"].choices


def test_a_space_stays_where_a_wider_network_does_not_fit_into_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = Experiment.from_spec(spec_for("digits", overrides=SHORT), device="cpu")
    monkeypatch.setattr(network, "_MANY_WEIGHTS", 0)
    monkeypatch.setattr(network, "free_memory", lambda: 1000)
    assert wider_space(experiment, 1e4) == []


def test_a_width_that_somebody_names_later_is_not_ignored() -> None:
    named = spec_for("digits", overrides=["space.width=8"])
    assert decided_before(named, spec_for("digits", overrides=["space.width=24"])) == named


@pytest.mark.parametrize(
    ("limits", "accuracy", "options", "taught"),
    [
        ({"params": "30k"}, 0.97, ["space.width=6"], True),
        ({"params": "30k"}, 0.97, ["space.stages=1"], True),
        ({"params": "30k"}, 0.90, ["space.width=6"], False),
        ({"params": "1M"}, 0.97, [], False),
        ({}, 0.97, ["space.width=6"], False),
    ],
)
def test_a_larger_network_teaches_one_that_a_limit_has_made_smaller(
    limits: dict[str, str], accuracy: float, options: list[str], taught: bool
) -> None:
    spec = spec_for("digits", limits=limits, overrides=[*SHORT, *options])
    trial = create_trial(value=accuracy, user_attrs={TrialKey.METRICS: {"accuracy": accuracy}})
    found = larger_space(spec, nas.load_data(spec.data), trial, None)
    assert (found is not None) is taught
    for decided, again in (({"teacher": {"larger": True}}, True), ({"teacher": {}}, False), ({}, False)):
        assert (larger_space(spec, nas.load_data(spec.data), trial, decided) is not None) is again


def test_no_larger_network_teaches_where_the_usual_space_lacks_a_pinned_value() -> None:
    pinned = spec_for("digits", overrides=[*SHORT, "space.width=6", 'space.fix={"stage1.width" = 8}'])
    trial = create_trial(value=0.97, user_attrs={TrialKey.METRICS: {"accuracy": 0.97}})
    data = nas.load_data(pinned.data)
    assert larger_space(pinned.override(["limits.params=30000"]), data, trial, None) is None


def test_a_larger_teacher_is_not_trained_again_and_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: Counter[str] = Counter()
    plain, stops = TrainStep.__call__, True

    def counted(self: TrainStep, images: torch.Tensor, labels: torch.Tensor) -> None:
        steps["plain" if self._teacher is None else "taught"] += 1
        if stops and steps["taught"] == 20:
            raise Interrupted
        plain(self, images, labels)

    monkeypatch.setattr(fit_spec, "SOON_LEARNT", 0.0)
    monkeypatch.setattr(TrainStep, "__call__", counted)
    said: list[str] = []
    with pytest.raises(Interrupted):
        fit_limited(tmp_path / "model", say=said.append)
    assert any("before it a larger one, from which it learns" in line for line in said)
    steps.clear()
    stops = False
    fitted = fit_limited(tmp_path / "model")
    assert steps["plain"] < 20, "its teacher is not trained again; only steps are timed"
    assert steps["taught"] > 0
    assert sum(weight.numel() for weight in fitted.network.network.parameters()) <= 30_000
    assert fitted.report.mean > 0.3


def test_a_limit_that_no_network_meets_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no architecture has params of at most 100"):
        nas.fit("digits", 12, tmp_path, max_params=100, overrides=SHORT, say=lambda line: None)


def test_a_fit_with_a_limit_searches_a_smaller_space(limited: Limited) -> None:
    assert any("a smaller space for the limits" in line for line in limited.said)
    assert sum(weight.numel() for weight in limited.fitted.network.network.parameters()) <= 30_000
