"""Whether a fit begins with a pretrained network."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import nas_optuna as nas
from nas_optuna.data import ImageSet
from nas_optuna.errors import Interrupted, SpecError, StudyError
from nas_optuna.experiment import Experiment
from nas_optuna.fitting import pretrained, run
from nas_optuna.fitting.inputs import name_of
from nas_optuna.fitting.pretrained import SMALLEST, leave_one_out_accuracy, may_begin_pretrained, pretrained_experiment
from nas_optuna.fitting.spec import decided_before, new_experiment, spec_for
from nas_optuna.spaces import backbone
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import StudySpec
from nas_optuna.study.significance import Measured
from tests.helpers import Command


@pytest.mark.parametrize(
    ("space", "overrides", "limits", "may"),
    [
        (None, ["recipe.seed=1", "data.train_limit=100"], {}, True),
        ("residual", [], {}, False),
        (None, ["space.width=8"], {}, False),
        (None, ['reference="mine.py:network"'], {}, False),
        (None, [], {"params": "50k"}, True),
        (None, ["latency.table='mine.json'"], {"latency_ms": "3"}, False),
    ],
)
def test_what_depends_on_the_usual_space_keeps_it(
    space: str | None, overrides: list[str], limits: dict[str, str], may: bool
) -> None:
    spec = spec_for("digits", space=space, overrides=overrides, limits=limits)
    assert may_begin_pretrained(spec, space, overrides) is may


def photos(folder: Path, side: int) -> str:
    """Pictures of noise that differ in their colour."""
    rng, labels = np.random.default_rng(0), np.arange(120) % 3
    images = rng.integers(0, 120, (120, side, side, 3)) + 60 * np.eye(3, dtype=int)[labels][:, None, None]
    return name_of((images.astype(np.uint8), labels), folder)


def test_both_are_trained_for_the_same_time_and_the_better_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    name = photos(tmp_path, SMALLEST)
    usual = Experiment.from_spec(spec_for(name), device="cpu")
    monkeypatch.setattr(pretrained, "SHARE", 1e-4)  # the fewest images, whatever the machine does
    found = pretrained_experiment(usual, spec_for(name, space="backbone"), 0.0, 1e4, said.append, device="cpu")
    assert said[0].startswith("comparing pretrained weights (efficientnet_lite0)")
    assert ("begins with the weights" in said[1]) is (found is not None)
    assert len(said) == 2


def test_large_pictures_may_be_much_smaller_for_a_new_fit_and_keep_the_sizes_of_an_earlier_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretrained, "_time", lambda *_: (1e-6, 0))
    monkeypatch.setattr(pretrained, "_seen", lambda _, __, sizes, *___: (sizes[-1], Measured(0.9, 0.03)))
    monkeypatch.setattr(pretrained, "_trained", lambda *_: Measured(0.5, 0.03))
    name = photos(tmp_path, 160)
    spec, usual = spec_for(name, space="backbone"), Experiment.from_spec(spec_for(name), device="cpu")
    found = pretrained_experiment(usual, spec, 0.0, 1e4, print, device="cpu")
    assert found is not None
    assert found.space.parameters["input"].choices == (64, 96, 128, 160)
    assert decided_before(spec_for(name), found.spec, spec) == found.spec
    assert Experiment.from_spec(spec, device="cpu").space.parameters["input"].choices == (120, 160)


@pytest.mark.parametrize("part", ["with weights", "untrained"])
def test_the_comparison_can_be_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    if part == "untrained":
        monkeypatch.setattr(pretrained, "_seen", lambda *_: (160, Measured(0.9, 0.03)))
    name = photos(tmp_path, SMALLEST)
    usual, stop = Experiment.from_spec(spec_for(name), device="cpu"), {"device": "cpu", "interrupted": lambda: True}
    with pytest.raises(Interrupted) as caught:
        pretrained_experiment(usual, spec_for(name, space="backbone"), 0.0, 1e4, print, **stop)
    assert "epoch" not in str(caught.value)


def test_a_sample_does_not_tell_its_own_class() -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(120, 1280, generator=generator), torch.arange(120) % 3
    assert leave_one_out_accuracy(features, labels) < 0.5, (
        "noise tells nothing, though 1,280 features fit 120 samples exactly"
    )
    assert leave_one_out_accuracy(features + F.one_hot(labels).repeat(1, 427)[:, :1280], labels) > 0.8


@pytest.mark.parametrize(("with_them", "space"), [(0.9, "backbone"), (0.53, "residual")])
def test_a_fit_remembers_what_it_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_them: float, space: str
) -> None:
    monkeypatch.setattr(pretrained, "_seen", lambda *_: (160, Measured(with_them, 0.03)))
    monkeypatch.setattr(pretrained, "_trained", lambda *_: Measured(0.5, 0.03))
    name = photos(tmp_path, SMALLEST)
    spec, other = spec_for(name), spec_for(name, space="backbone")
    begun = new_experiment(spec, other, run.TimeBudget(1e4), print, device="cpu", data_directory=None).spec
    assert begun.space.name == space
    assert decided_before(spec, begun, other) == begun
    if space == "backbone":
        with pytest.raises(StudyError, match="has begun with pretrained weights"):
            decided_before(spec_for(name, space="residual"), begun)


def test_a_pretrained_fit_whose_spec_names_no_model_is_compared_like_any_other() -> None:
    other = spec_for("digits", space="backbone")
    values = other.to_dict()
    del values["space"]["model"]
    begun = StudySpec.from_dict(values, "a file")
    assert decided_before(spec_for("digits"), begun, other) == other


@pytest.mark.parametrize(("side", "reading", "compared"), [(80, 500.0, False), (80, 1.0, True), (32, 500.0, True)])
def test_pictures_are_read_again_only_if_there_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int, reading: float, compared: bool
) -> None:
    seen: list[Experiment] = []

    def see(experiment: Experiment, *_: object) -> tuple[int, Measured]:
        seen.append(experiment)
        return 160, Measured(0.9, 0.03)

    monkeypatch.setattr(pretrained, "_seen", see)
    monkeypatch.setattr(pretrained, "_trained", lambda *_: Measured(0.5, 0.03))
    name = photos(tmp_path, side)
    usual = Experiment.from_spec(spec_for(name), device="cpu")
    pretrained_experiment(usual, spec_for(name, space="backbone"), reading, 1e3, print, device="cpu")
    assert [experiment.space.image_size for experiment in seen] == [(side, side)] * compared
    assert [experiment.data is usual.data for experiment in seen] == [side < 64] * compared


def test_pictures_that_are_too_small_are_not_compared(tmp_path: Path) -> None:
    name = photos(tmp_path, SMALLEST - 1)
    usual = Experiment.from_spec(spec_for(name), device="cpu")
    assert pretrained_experiment(usual, spec_for(name, space="backbone"), 0.0, 1e4, pytest.fail, device="cpu") is None


@pytest.mark.parametrize(
    ("seconds", "sizes"),
    [(13.0, None), (45.0, [64, 96]), (80.0, [64, 96, 128]), (1000.0, [64, 96, 128, 160, 192])],
)
def test_pictures_are_as_large_as_there_is_time_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, sizes: list[int] | None
) -> None:
    monkeypatch.setattr(pretrained, "_time", lambda *_: (1.0, 0))  # a second for 160 pixels
    monkeypatch.setattr(pretrained, "_seen", lambda _, __, sizes, *___: (sizes[-1], Measured(0.9, 0.03)))
    monkeypatch.setattr(pretrained, "_trained", lambda *_: Measured(0.5, 0.03))
    monkeypatch.setattr(pretrained, "ENOUGH", 10)  # of 96 pixels 14 s, and the test of 24 images 10 s
    name, said = photos(tmp_path, SMALLEST), list[str]()
    usual, other = Experiment.from_spec(spec_for(name), device="cpu"), spec_for(name, space="backbone")
    found = pretrained_experiment(usual, other, 0.0, seconds, said.append, device="cpu")
    assert (found and list(found.space.parameters["input"].choices)) == sizes
    assert any("the time is short" in line for line in said) is (sizes is not None and len(sizes) < 5)
    if found:
        assert decided_before(spec_for(name), found.spec, other) == found.spec


@pytest.mark.parametrize(
    ("blocks", "recognised", "size"),
    [
        (10, {160: 0.5, 128: 0.6, 96: 0.7, 64: 0.65}, 96),
        (10, {160: 0.7, 128: 0.72, 96: 0.7, 64: 0.6}, 160),  # within the noise
        (18, {160: 0.5}, 160),  # the whole network
    ],
)
def test_a_network_that_is_cut_sees_pictures_of_the_size_that_suits_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, recognised: dict[float, float], size: int
) -> None:
    asked: list[float] = []

    def features(_: Experiment, architecture: Architecture, images: ImageSet, *__: object) -> torch.Tensor:
        return torch.full((60, 1), float(str(architecture.params["input"])))

    def accuracy(features: torch.Tensor, labels: torch.Tensor) -> float:
        assert len(features) == len(labels)
        asked.append(float(features[0, 0]))
        return recognised[asked[-1]]

    monkeypatch.setattr(pretrained, "_features", features)
    monkeypatch.setattr(pretrained, "leave_one_out_accuracy", accuracy)
    experiment = Experiment.from_spec(spec_for(photos(tmp_path, SMALLEST), space="backbone"), device="cpu")
    assert experiment.space.reference is not None
    first = experiment.space.architecture(dict(experiment.space.reference.params) | {"blocks": blocks})
    chosen, seen = pretrained._seen(experiment, first, [64, 96, 128, 160], 1.0, lambda: False)
    assert (chosen, seen.accuracy, asked) == (size, recognised[size], list(recognised))


def test_a_network_is_cut_for_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def see(experiment: Experiment, architecture: Architecture, *_: object) -> tuple[int, Measured]:
        seen.append(str(architecture))
        return 160, Measured(0.9, 0.03)

    monkeypatch.setattr(pretrained, "_seen", see)
    monkeypatch.setattr(pretrained, "_trained", lambda *_: Measured(0.5, 0.03))
    name = photos(tmp_path, SMALLEST)
    spec, other = (spec_for(name, space=space, limits={"params": "1M"}) for space in (None, "backbone"))
    found = pretrained_experiment(Experiment.from_spec(spec, device="cpu"), other, 0.0, 1e4, print, device="cpu")
    assert found is not None
    assert str(found.candidates.reference()) == seen[0] == "input=160,blocks=13,trainable=6,rate=0.2,dropout=0.2"


def test_weights_are_left_out_where_no_part_of_the_network_is_inside_a_limit(tmp_path: Path) -> None:
    name, said = photos(tmp_path, SMALLEST), list[str]()
    spec, other = (spec_for(name, space=space, limits={"params": "5k"}) for space in (None, "backbone"))
    usual = Experiment.from_spec(spec.override(["space.width=4", "space.stages=1"]), device="cpu")
    assert pretrained_experiment(usual, other, 0.0, 1e4, said.append, device="cpu") is None
    assert said == [said[0]]
    assert said[0].startswith("pretrained weights are left out: no architecture has params of at most 5,000")


def test_a_walk_to_the_limits_takes_its_share_of_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "READING", -1.0)
    name, said = photos(tmp_path, SMALLEST), list[str]()
    spec, other = (spec_for(name, space=space, limits={"params": "1M"}) for space in (None, "backbone"))
    usual = Experiment.from_spec(spec, device="cpu")
    assert pretrained_experiment(usual, other, -1.0, 1e4, said.append, device="cpu") is None
    assert len(said) == 1
    assert "it takes too long to find what is inside the limits" in said[0]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_network_that_cannot_be_compared_is_left_out_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    torch.save({"no": torch.zeros(1)}, tmp_path / "damaged.pth")
    if damaged:
        monkeypatch.setattr(backbone.Backbone, "_cached", lambda self: tmp_path / "damaged.pth")
    said: list[str] = []
    name = photos(tmp_path, SMALLEST)
    usual = Experiment.from_spec(spec_for(name), device="cpu")
    spec = spec_for(name, space="backbone")
    assert pretrained_experiment(usual, spec, 0.0, 1e4 if damaged else 10.0, said.append, device="cpu") is None
    assert ("pretrained weights are left out: " if damaged else "too short") in said[-1]


def test_weights_are_found_in_torchvisions_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "PACKAGES", "no-such-package")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert backbone.at_hand() is None
    file = backbone.Backbone("resnet18")._cached()
    file.parent.mkdir(parents=True)
    file.touch()
    assert backbone.at_hand() == "resnet18"


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--set=recipe.seed=3"], {"overrides": ["recipe.seed=3"]}),
        (["--set=recipe.progressive=0.5"], {"overrides": ["recipe.progressive=0.5"]}),
        (["--space=backbone", "--seed=3"], {"space": "backbone", "seed": 3}),
        (["--space=residual", "--sampler=tpe"], {"space": "residual", "sampler": "tpe"}),
        (["--max-params=50k", "--max-latency=2"], {"max_params": "50k", "max_latency": 2.0}),
    ],
)
def test_the_command_and_the_function_make_the_same_specs(
    command: Command, monkeypatch: pytest.MonkeyPatch, options: list[str], settings: dict[str, Any]
) -> None:
    seen: list[run.Fit] = []

    def remember(fit: run.Fit) -> nas.Fitted:
        seen.append(fit)
        raise SpecError("enough")

    monkeypatch.setattr(run.Fit, "run", remember)
    command("fit", "digits", "--within=1m", *options)
    with pytest.raises(SpecError, match="enough"):
        nas.fit("digits", "1m", **settings)
    assert seen[0].spec == seen[1].spec
    assert seen[0].pretrained == seen[1].pretrained


def test_settings_that_can_be_read_only_once_hold_in_both_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[run.Fit] = []
    monkeypatch.setattr(run.Fit, "run", lambda self: seen.append(self))
    nas.fit("digits", "1m", overrides=(text for text in ["recipe.seed=3"]))  # type: ignore[arg-type]
    assert seen[0].pretrained is not None
    assert (seen[0].spec.recipe.seed, seen[0].pretrained.recipe.seed) == (3, 3)
