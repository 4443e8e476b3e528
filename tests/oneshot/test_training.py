"""A supernet's damaged checkpoint does not end its training either."""

import copy
import itertools
import logging
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from torch import nn

import nas_optuna as nas
from nas_optuna.data import load_images
from nas_optuna.data.images import stratified_order
from nas_optuna.errors import SpecError, StudyError, TrainingError
from nas_optuna.execution.evaluator import Search
from nas_optuna.experiment import Experiment
from nas_optuna.oneshot.check import proposals
from nas_optuna.oneshot.price import cost_table
from nas_optuna.oneshot.short_trainings import ShortTrainer
from nas_optuna.oneshot.strategies.fair import FairStrategy
from nas_optuna.oneshot.trained import calibrated_ranker, stratified_part, trained_supernet
from nas_optuna.oneshot.training import SupernetTraining, make_strategy
from nas_optuna.spec import StudySpec, SupernetSpec
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.supernet_result import find_predictor, find_result, read_result
from nas_optuna.training import CheckpointFolder
from tests.helpers import as_release_0_2_wrote

CPU = torch.device("cpu")
SPEC = StudySpec.from_dict(
    {
        "data": {"name": "digits", "train_limit": 120},
        "space": {"name": "conv", "depth": 2, "filters": [4, 8], "kernels": [3, 5], "strides": [1]},
        "recipe": {"input_size": 8},
    }
)
SETTINGS = {
    "darts": SupernetSpec(strategy="darts", epochs=3, warmup_epochs=1, batch_size=32),
    "fair": SupernetSpec(epochs=3, batch_size=32, evaluations=10),
}
SEARCH = Experiment.from_spec(SPEC).search
TABLE = cost_table(SEARCH.space, None)
Losses = list[float]


def search_by(settings: SupernetSpec) -> Search:
    return replace(SEARCH, spec=SEARCH.spec.model_copy(update={"supernet": settings}))


def training(study: optuna.Study, files: Path, strategy: str = "darts") -> SupernetTraining:
    return SupernetTraining(study, search_by(SETTINGS[strategy]), TABLE, CPU, files)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Losses]]:
    """By strategy: the files of a training that has ended, and the losses of its epochs."""
    found = {}
    for strategy in SETTINGS:
        files = tmp_path_factory.mktemp(strategy)
        supernet = training(optuna.create_study(study_name="s"), files, strategy)
        supernet.train()
        found[strategy] = (files, [epoch.loss for epoch in supernet.history])
    return found


def test_weights_of_another_release_are_not_taken_for_ours(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s")
    training(study, tmp_path, "fair").train()
    assert trained_supernet(study, read_result(study), SEARCH, CPU, tmp_path)
    summary = study.user_attrs[StudyKey.SUPERNET]
    assert summary["version"] > 1
    study.set_user_attr(StudyKey.SUPERNET, {key: value for key, value in summary.items() if key != "version"})
    with pytest.raises(StudyError, match=r"another release.*supernet train --study s"):
        trained_supernet(study, read_result(study), SEARCH, CPU, tmp_path)


@nas.space
def own(c: Any, task: Any) -> nn.Module:
    layer = c.layer("layer", {"linear": lambda: nn.Linear(64, 8), "free": lambda: nn.Linear(64, 8, bias=False)})
    return nn.Sequential(nn.Flatten(), layer, nn.Linear(8, task.classes))


@nas.space
def sized(c: Any, task: Any) -> nn.Module:
    size = c.choice("size", [4, 8], ordered=True)
    layer = c.layer("layer", {"linear": lambda: nn.Linear(64, size), "free": lambda: nn.Linear(64, size, bias=False)})
    return nn.Sequential(nn.Flatten(), layer, nn.Linear(size, task.classes))


def test_weights_of_an_earlier_text_of_ones_own_space_are_not_taken_for_those_of_todays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spec = SPEC.override([f'space={{name="{__name__}:own"}}'])
    experiment = Experiment.from_spec(spec.model_copy(update={"supernet": SETTINGS["fair"]}))
    study, search, table = optuna.create_study(study_name="s"), experiment.search, cost_table(experiment.space, None)
    began = SupernetTraining(study, search, table, CPU, tmp_path).train()
    assert SupernetTraining(study, search, table, CPU, tmp_path).finished()
    edited = replace(search, space=copy.copy(search.space))
    edited.space.source = "another"  # type: ignore[attr-defined]
    again = SupernetTraining(study, edited, table, CPU, tmp_path)
    assert (again.history, again.finished()) == ([], None)
    with pytest.raises(StudyError, match=r"no intact weights .* train it anew"):
        trained_supernet(study, began, edited, CPU, tmp_path)
    assert "it was trained by other code" in caplog.text


@pytest.mark.parametrize(("strategy", "identity"), [("darts", "4d9726c44e0a"), ("fair", "aace195a5d45")])
def test_the_supernets_of_built_in_spaces_are_found_where_earlier_releases_left_them(
    strategy: str, identity: str, finished: dict[str, tuple[Path, Losses]]
) -> None:
    (folder,) = finished[strategy][0].rglob("supernet-*")
    assert folder.name == f"supernet-{identity}"


@pytest.mark.parametrize("part", ["weights", "state"])
def test_a_checkpoint_that_does_not_fit_is_begun_anew(
    part: str, finished: dict[str, tuple[Path, Losses]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = shutil.copytree(finished["fair"][0], tmp_path / "files")
    (folder,) = map(CheckpointFolder, files.rglob("supernet-*"))
    sound = folder.load()
    assert sound is not None
    other = {
        "weights": {name: weight[:1] for name, weight in sound.weights.items()},
        "state": {"finished": 3, "length": 3},
    }
    folder.remove()
    folder.save(3, **{"weights": sound.weights, "state": sound.state} | {part: other[part]}, progress=sound.progress)
    supernet = training(optuna.create_study(study_name="s"), files, "fair")
    assert "no other is left, so a training begins anew" in caplog.text
    fresh = training(optuna.create_study(study_name="s"), tmp_path / "none", "fair")
    assert supernet.strategy is not None
    assert fresh.strategy is not None
    assert (supernet.history, supernet.strategy.finished) == ([], 0)
    found, wanted = supernet.strategy.supernet.state_dict(), fresh.strategy.supernet.state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_weights_that_release_0_2_wrote_are_read_and_damaged_ones_are_not_said_to_be_elsewhere(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s")
    training(study, tmp_path, "fair").train()

    def weights() -> dict[str, torch.Tensor]:
        supernet = trained_supernet(study, read_result(study), SEARCH, CPU, tmp_path)
        assert supernet is not None
        return supernet.state_dict()

    wanted, epochs = weights(), list(tmp_path.rglob("supernet-*/epoch-*"))
    for epoch in epochs:
        as_release_0_2_wrote(epoch)
    found = weights()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    for epoch in epochs:
        (epoch / "weights.safetensors").write_bytes(b"")
    with pytest.raises(StudyError, match=r"no intact weights .*supernet-\w+; run this .*supernet train --study s"):
        weights()
    shutil.rmtree(epochs[0].parent)
    with pytest.raises(StudyError, match=r"no intact weights .*supernet-\w+; run this where it was"):
        weights()


def test_weights_of_other_images_are_not_gone_on_with(
    finished: dict[str, tuple[Path, Losses]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The database was removed, other labels were put into the file, and the supernet's folder was left."""
    files = shutil.copytree(finished["fair"][0], tmp_path / "files")
    study, search = optuna.create_study(study_name="s"), search_by(SETTINGS["fair"])
    same = SupernetTraining(study, search, TABLE, CPU, files)
    assert len(same.history) == 3
    images = search.data.train
    other = replace(search, data=replace(search.data, train=replace(images, labels=images.labels.flip(0))))
    assert not SupernetTraining(study, other, TABLE, CPU, files).history
    assert "it was trained on other images" in caplog.text
    same.train()
    with pytest.raises(StudyError, match="no intact weights"):
        trained_supernet(study, read_result(study), other, CPU, files)


def test_images_that_lie_class_by_class_are_scored_by_stratified_ones_and_others_by_the_first() -> None:
    """The first 500 of a data set's own validation part have half of its classes, if it is not shuffled."""
    whole = load_images("digits", train=True)
    shuffled = np.random.default_rng(0).permutation(len(whole))
    by_class = whole.subset(whole.labels.argsort())
    for order in (stratified_order(whole.labels, 0), shuffled):
        assert torch.equal(stratified_part(whole.subset(order), 500).images, whole.images[order[:500]])
    assert torch.equal(stratified_part(by_class, 5000).images, by_class.images)
    for part in (by_class, by_class.subset(range(600))):
        found, shares = stratified_part(part, 500), [500 * size / len(part) for size in part.class_sizes]
        assert len(found) == 500
        assert all(abs(size - share) < 2 for size, share in zip(found.class_sizes, shares, strict=True))


def test_many_small_classes_that_lie_one_after_another_are_scored_by_stratified_images() -> None:
    """The first 500 images hold only half of the classes, but the count of each class is off by no more than ten."""
    whole = load_images("digits", train=True).subset(range(1000))
    sizes = {"classes": tuple(map(str, range(50)))}
    by_class = replace(whole, labels=torch.arange(1000) // 20, **sizes)
    for seed in range(20):
        part = by_class.subset(np.random.default_rng(seed).permutation(1000))
        assert torch.equal(stratified_part(part, 500).images, part.images[:500])
    assert set(stratified_part(by_class, 500).class_sizes) == {10}


def test_a_check_ranks_nothing_whose_short_training_has_taught_the_score(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s")
    training(study, tmp_path, "fair").train()
    result = read_result(study)
    supernet = trained_supernet(study, result, SEARCH, CPU, tmp_path)
    whole = [SEARCH.space.architecture(dict(zip(SEARCH.space.parameters, values, strict=True))) for values in _all()]
    everything, half, nothing = (
        calibrated_ranker(result, SEARCH, supernet, CPU, ranked).score for ranked in ([], whole[::2], whole)
    )
    assert everything.short > half.short >= 3 > nothing.short == 0
    assert everything.short == result.score_short_trainings
    assert everything.to_dict() == result.score, "it compares with as many networks as the training did"


def test_another_number_of_short_trainings_takes_the_weights_that_are_there(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s")
    first = training(study, tmp_path, "fair").train()
    fewer = SETTINGS["fair"].model_copy(update={"short_trainings": 0})
    again = SupernetTraining(study, search_by(fewer), TABLE, CPU, tmp_path)
    assert len(again.history) == again.length
    second = again.train()
    assert (first.finalists, first.score_short_trainings) == (4, 10)
    assert (second.finalists, second.score_short_trainings) == (0, 0)
    assert first.identity == second.identity


def test_a_supernet_is_the_same_where_its_images_have_moved(tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s")
    search = search_by(SupernetSpec(budget=0, short_trainings=0, evaluations=10))
    began = SupernetTraining(study, search, TABLE, CPU, tmp_path).train()
    study.set_user_attr(StudyKey.DATA, {"name": SPEC.data.name})
    moved = replace(search, spec=search.spec.override(['data.name="npz:elsewhere.npz"']))
    found = SupernetTraining(study, moved, TABLE, CPU, tmp_path).finished()
    assert found is not None
    assert found.identity == began.identity


@pytest.mark.parametrize("settings", [SETTINGS["fair"], SupernetSpec(budget=0, evaluations=10), SETTINGS["darts"]])
@pytest.mark.parametrize("given", [{"fixed": {"conv1.kernel": 5, "conv2.filters": 8}}, {"among": "listed"}])
def test_all_that_a_supernet_ranks_trains_and_proposes_may_be_proposed(
    settings: SupernetSpec, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = SEARCH.space.sample_distinct(6, random.Random(3))
    Path("listed").write_text(" ".join(map(str, listed)))
    spec = StudySpec.from_dict(SPEC.to_dict() | given).model_copy(update={"supernet": settings})
    experiment, study, trained = Experiment.from_spec(spec), optuna.create_study(study_name="s"), []
    space, among = experiment.space, experiment.candidates
    short = ShortTrainer.__call__
    monkeypatch.setattr(ShortTrainer, "__call__", lambda self, a, n: (trained.extend(a), short(self, a, n))[1])
    training = SupernetTraining(study, experiment.search, TABLE, CPU, tmp_path)
    training.train()
    assert training.finished()
    result = read_result(study)
    assert {name: len(p) for name, p in result.alphas.items()} == {
        n: len(p.choices) for n, p in space.parameters.items()
    }
    supernet = trained_supernet(study, result, experiment.search, CPU, tmp_path)
    assert (supernet is None) == (settings.strategy_options.get("budget") == 0)
    if settings.strategy == "darts" and "among" in given:  # its alphas know nothing of a list
        assert proposals(study, result, among, 3)
        return
    for other in ({"fixed": {}, "among": None}, {"fixed": {"conv1.kernel": 3}}):
        search = Experiment.from_spec(StudySpec.from_dict(spec.to_dict() | other)).search
        assert not SupernetTraining(study, search, TABLE, CPU, tmp_path).finished()
    assert space.parse(result.argmax) in among
    assert all(architecture in among for architecture in trained)
    if result.best is not None:
        assert all(
            space.architecture(params) in among for params in [*result.start_params(), space.parse(result.best).params]
        )
        assert find_predictor(study, {name: p.choices for name, p in space.parameters.items()})
        assert len(trained) >= 6


def test_a_list_without_any_network_of_the_supernet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "listed").write_text("size=4,layer=linear")
    given = {"space": {"name": f"{__name__}:sized"}, "among": str(tmp_path / "listed")}
    experiment = Experiment.from_spec(StudySpec.from_dict(SPEC.to_dict() | given))
    with pytest.raises(SpecError, match="none of the listed architectures is in the part of the space that the super"):
        make_strategy(experiment.search, cost_table(experiment.space, None), CPU)


@pytest.mark.parametrize("damage", [{"chunks": 99}, {"settings": {"seed": "x"}}, {"settings": [1]}])
def test_a_damaged_result_is_stored_anew_by_the_training_that_its_message_names(
    tmp_path: Path, damage: dict[str, Any]
) -> None:
    study = optuna.create_study(study_name="s")
    search = search_by(SupernetSpec(budget=0, short_trainings=0, evaluations=10))
    SupernetTraining(study, search, TABLE, CPU, tmp_path).train()
    sound = study.user_attrs[StudyKey.SUPERNET]
    study.set_user_attr(StudyKey.SUPERNET, sound | damage)
    with pytest.raises(StudyError, match="cannot be read; train it again: nas-optuna supernet train --study s"):
        read_result(study)
    SupernetTraining(study, search, TABLE, CPU, tmp_path).train()
    again = study.user_attrs[StudyKey.SUPERNET]
    assert (again["chunks"], again["settings"]) == (sound["chunks"], sound["settings"])


@pytest.mark.parametrize("damaged", [False, True])
def test_an_explosion_leaves_the_last_intact_epoch_and_no_short_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    study, told = optuna.create_study(study_name="s"), []
    supernet = training(study, tmp_path, "fair")
    step = FairStrategy.step

    def exploding(self: FairStrategy, *rest: Any) -> Any:
        if self.finished:
            for epoch in tmp_path.rglob("epoch-*") if damaged else ():
                epoch.write_bytes(b"")
            raise TrainingError("gradients explode", "gradient explosion")
        return step(self, *rest)

    monkeypatch.setattr(FairStrategy, "step", exploding)
    monkeypatch.setattr(ShortTrainer, "__call__", lambda *arguments: told.append(arguments))
    with pytest.raises(TrainingError, match="explode$" if damaged else "epoch 1 is kept"):
        supernet.train()
    assert told == []
    assert (find_result(study) is None) == damaged


def _all() -> Iterator[tuple[Any, ...]]:
    return itertools.product(*(p.choices for p in SEARCH.space.parameters.values()))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda epoch: epoch.write_bytes(b""),
    "truncated": lambda epoch: epoch.write_bytes(epoch.read_bytes()[:-100]),
    "one bit": lambda epoch: epoch.write_bytes(epoch.read_bytes()[:-1] + bytes([epoch.read_bytes()[-1] ^ 1])),
    "a folder": lambda epoch: (epoch.unlink(), epoch.mkdir()),
}


@pytest.mark.parametrize("strategy", SETTINGS)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_supernet_goes_on_from_the_epoch_before(
    strategy: str,
    damage: Callable[[Path], object],
    finished: dict[str, tuple[Path, Losses]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = tmp_path / "files"
    shutil.copytree(finished[strategy][0], files)
    (epoch,) = files.rglob("epoch-3")
    damage(epoch)
    with caplog.at_level(logging.WARNING, logger="nas_optuna"):
        supernet = training(optuna.create_study(study_name="s"), files, strategy)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "goes on from epoch 2" in message
    assert len(supernet.history) == 2
    supernet.train()
    assert [epoch.loss for epoch in supernet.history] == finished[strategy][1]


@pytest.mark.parametrize("strategy", SETTINGS)
def test_a_trained_supernets_weights_are_those_of_the_last_sound_epoch(strategy: str, tmp_path: Path) -> None:
    study = optuna.create_study(study_name="s")
    supernet = training(study, tmp_path, strategy)
    supernet.train()
    (epoch,) = tmp_path.rglob("epoch-3")
    folder = CheckpointFolder(epoch.parent)
    sound = folder.load()
    assert sound is not None
    folder.save(3, {name: weight[:1] for name, weight in sound.weights.items()}, sound.state, sound.progress)
    found = trained_supernet(study, read_result(study), SEARCH, CPU, tmp_path)
    assert found is not None
    assert supernet.strategy is not None
    assert found.state_dict().keys() == supernet.strategy.supernet.state_dict().keys()
