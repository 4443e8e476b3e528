"""What a user's network does wrong ends its own training, with a cause; a tail of one image ends none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from torch import nn

from nas_optuna import Objective, Recipe, TrialRecord, load_data
from nas_optuna.data import BatchLoader, SearchData
from nas_optuna.errors import SpecError, TrainingError, describe_error
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spec import DataSpec
from nas_optuna.training import CheckpointFolder, EpochResult, evaluate, fit, make_network
from tests.training.user_space import UserSpace

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=2, batch_size=32, input_size=8)
DATA = load_data(DataSpec(train_limit=200))
SPACE = UserSpace()
CAUSES = {
    "build": "KeyError: 'no such thing\\nin [bold]two[/bold] lines'",
    "forward": "ValueError: wrong wrong wrong",
    "evaluation": "IndexError: out of range",
    "backward": "RuntimeError: no gradient",
    "outputs": "IndexError: Target",
    "shape": "the network gave float32 [32, 10, 1] for 32 images, not logits [32, classes]",
    "tuple": "the network gave a tuple for 32 images",
}


class Selfless(nn.Flatten):
    def train(self, mode: bool = True) -> Any:
        super().train(mode)


def trained(part: str, images: int, folder: Path | None = None, epochs: int = 2) -> list[EpochResult]:
    network = make_network(SPACE, SPACE.parse(part), RECIPE, CPU, seed=0)
    loader = BatchLoader(DATA.train.subset(range(images)), RECIPE.batch_size, 8, CPU)
    checkpoints = None if folder is None else CheckpointFolder(folder)
    return list(fit(network, loader, loader, RECIPE, CPU, seed=0, checkpoints=checkpoints))[:epochs]


def test_whatever_a_network_raises_ends_its_trial_alone_with_its_cause() -> None:
    objective = Objective(SPACE, SearchData("digits", DATA.train, DATA.validation), RECIPE, device="cpu")
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.NopPruner())
    for part in (*CAUSES, "plain"):
        study.enqueue_trial({"part": part})
    study.optimize(objective, n_trials=len(CAUSES) + 1, catch=(TrainingError,))
    *failed, plain = study.trials
    assert plain.state == TrialState.COMPLETE
    for trial, (part, cause) in zip(failed, CAUSES.items(), strict=True):
        assert trial.state == TrialState.FAIL, part
        said = TrialRecord.of(trial).cause
        assert said is not None
        assert said.startswith(cause)
        assert len(said) <= 240  # so that it names a layer and the shape of its input
        assert "\n" not in said


@pytest.mark.parametrize(
    ("build", "says"),
    [(Selfless, r"train\(\) of Selfless must return self"), (dict, "network must be an nn.Module, not a dict")],
)
def test_what_the_class_of_a_space_must_not_build_is_told_once(build: Callable[[], Any], says: str) -> None:
    class Space(UserSpace):
        def build(self, architecture: Architecture) -> Any:
            return build()

    with pytest.raises(SpecError, match=says):
        make_network(Space(), SPACE.parse("plain"), RECIPE, CPU, seed=0)
    objective = Objective(Space(), DATA, RECIPE, device="cpu")
    with pytest.raises(SpecError, match=says):
        optuna.create_study(direction="maximize").optimize(objective, n_trials=2)


def test_a_network_without_weights_is_told_before_training() -> None:
    loader = BatchLoader(DATA.train, 32, 8, CPU)
    with pytest.raises(TrainingError, match="the network has no weight that learns"):
        next(fit(nn.Flatten(), loader, None, RECIPE, CPU, seed=0))


def test_out_of_memory_is_not_taken_for_a_fault_of_the_network() -> None:
    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.empty(2**60, dtype=torch.uint8)

    class Larger(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise MemoryError

    loader = BatchLoader(DATA.train, 32, 8, CPU)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    for module in (Large(), Larger()):
        with pytest.raises(TrainingError) as caught:
            next(fit(nn.Sequential(network, module), loader, None, RECIPE, CPU, seed=0))
        assert caught.value.cause == "oom"


def test_faults_of_the_images_are_not_the_networks() -> None:
    class Broken(BatchLoader):
        def epoch(self, *_: object) -> Any:
            raise OSError("the disk is gone")

    loader = Broken(DATA.train, 32, 8, CPU)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(OSError, match="the disk is gone"):
        next(fit(network, loader, None, RECIPE, CPU, seed=0))
    with pytest.raises(OSError, match="the disk is gone"):
        evaluate(network, loader, CPU, torch.float32)


def test_causes_are_one_short_line_of_printable_text() -> None:
    assert describe_error(KeyError()) == "KeyError"
    text = describe_error(ValueError("\x1b[31mred\n" * 1000 + "end"))
    assert len(text) == 120
    assert text.isprintable()


@pytest.mark.parametrize(("part", "used"), [("norm", 32), ("functional", 32), ("plain", 33)])
def test_one_image_at_the_end_is_left_out_where_it_cannot_be_normalised(part: str, used: int) -> None:
    results = trained(part, 33)
    assert [result.epoch for result in results] == [1, 2]
    for result in results:
        correct = result.train_accuracy * used
        assert correct == pytest.approx(round(correct), abs=1e-9)
    assert len(trained(part, 34)) == 2, "two images have a variance"


@pytest.mark.parametrize("part", ["norm", "functional"])
def test_a_training_with_such_a_tail_goes_on_as_if_undisturbed(part: str, tmp_path: Path) -> None:
    whole = trained(part, 33)
    folder = CheckpointFolder(tmp_path)
    network = make_network(SPACE, SPACE.parse(part), RECIPE, CPU, seed=0)
    loader = BatchLoader(DATA.train.subset(range(33)), RECIPE.batch_size, 8, CPU)
    next(fit(network, loader, loader, RECIPE, CPU, seed=0, checkpoints=folder))
    assert (tmp_path / "epoch-1").is_file()
    resumed = trained(part, 33, tmp_path)
    assert [(r.train_loss, r.loss) for r in resumed] == [(r.train_loss, r.loss) for r in whole]


def test_batches_of_one_image_are_not_left_out() -> None:
    loader = BatchLoader(DATA.train.subset(range(5)), 1, 8, CPU)
    network = make_network(SPACE, SPACE.parse("norm"), RECIPE, CPU, seed=0)
    with pytest.raises(TrainingError, match="Expected more than 1 value per channel"):
        next(fit(network, loader, None, RECIPE, CPU, seed=0))


def test_state_that_no_file_of_weights_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Remembering(nn.Flatten):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 1}

    monkeypatch.setattr(UserSpace, "build", lambda *_: nn.Sequential(Remembering(), nn.Linear(64, 10)))
    with pytest.raises(TrainingError, match=r"0\._extra_state of its state is a dict.*get_extra_state return a tensor"):
        make_network(SPACE, SPACE.parse("plain"), RECIPE, CPU, seed=0)
