"""Which sampler and pruner a study gets where nobody names them, and what may be proposed."""

from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from nas_optuna.errors import ArchitectureError, SpecError
from nas_optuna.experiment import Experiment
from nas_optuna.samplers.base import innermost
from nas_optuna.samplers.curve_pruner import CurvePruner
from nas_optuna.samplers.curves import CurveSampler
from nas_optuna.spec import StudySpec
from nas_optuna.spec_parts import with_default_search

SMALL = {
    "space": {"name": "conv", "depth": 2},
    "recipe": {"epochs": 1, "batch_size": 64},
    "data": {"name": "digits", "train_limit": 150},
}


@pytest.mark.parametrize(
    ("values", "sampler", "pruner"),
    [
        ({}, "curves", "curves"),
        ({"search": {"learning_rate": "1e-4..1e-1:log"}, "limits": {"macs": 1e6}}, "curves", "curves"),
        ({"objectives": ["accuracy", "macs"]}, "tpe", "guarded"),
        ({"pruner": "median"}, "tpe", "median"),
        ({"sampler": "random"}, "random", "guarded"),
        ({"sampler": "random", "pruner": "none"}, "random", "none"),
        ({"sampler": "curves", "pruner": "none"}, "curves", "none"),
    ],
)
def test_the_default_follows_from_the_study(values: dict, sampler: str, pruner: str) -> None:
    spec, why = with_default_search(StudySpec.from_dict(values))
    assert (spec.sampler.name, spec.pruner.name) == (sampler, pruner)
    assert bool(why) == ("sampler" not in values)


def test_the_first_line_says_which_and_why() -> None:
    experiment = Experiment.from_spec(StudySpec.from_dict(SMALL), device="cpu")
    assert "sampler curves (learns from every epoch" in experiment.describe()
    named = Experiment.from_spec(StudySpec.from_dict(SMALL | {"sampler": "tpe"}), device="cpu")
    assert "sampler tpe, pruner guarded" in named.describe()


@pytest.mark.parametrize("extra", [{}, {"limits": {"macs": "1G"}}, {"fixed": {"conv1.stride": 1}}])
def test_the_pruner_finds_its_sampler_whatever_is_around_it(extra: dict) -> None:
    experiment = Experiment.from_spec(StudySpec.from_dict(SMALL | extra), device="cpu")
    assert isinstance(experiment.pruner, CurvePruner)
    assert isinstance(innermost(experiment.sampler), CurveSampler)


@pytest.mark.parametrize("sampler", ["curves", "tpe", "random", "evolution"])
def test_only_listed_architectures_are_tried_and_each_once(tmp_path: Path, sampler: str) -> None:
    listed = ["f16k3s1-f16k3s1", "f32k3s1-f16k3s1", "f16k5s1-f16k3s1"]
    (tmp_path / "list.txt").write_text("\n".join(listed))
    spec = StudySpec.from_dict(SMALL | {"sampler": sampler, "pruner": "none", "among": str(tmp_path / "list.txt")})
    experiment = Experiment.from_spec(spec, device="cpu")
    study = experiment.create(InMemoryStorage(), "listed")
    assert experiment.run(study, trials=5).trials == 3
    assert {t.user_attrs["nas_optuna:architecture"] for t in study.trials} == set(listed)
    assert all(t.state == TrialState.COMPLETE for t in study.trials)


def test_a_list_that_cannot_be_obeyed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("f16k3s1-f16k3s1")
    among = SMALL | {"among": str(tmp_path / "list.txt")}
    for left in ({"fixed": {"conv1.stride": 2}}, {"limits": {"params": 3000}}):
        with pytest.raises(SpecError, match="none of the listed"):
            Experiment.from_spec(StudySpec.from_dict(among | left), device="cpu")
    with pytest.raises(ArchitectureError, match="cannot read"):
        Experiment.from_spec(StudySpec.from_dict(SMALL | {"among": str(tmp_path / "gone.txt")}), device="cpu")


@pytest.mark.parametrize(("text", "found"), [("1GB", 1e9), ("300MB", 3e8), ("10k", 1e4), ("0", 0), (5000, 5000)])
def test_how_much_of_stopped_trainings_is_kept(text: object, found: float) -> None:
    assert StudySpec.from_dict({"keep_paused": text}).keep_paused == found


def test_an_amount_that_is_none_is_refused() -> None:
    with pytest.raises(SpecError, match="number of bytes"):
        StudySpec.from_dict({"keep_paused": "much"})
