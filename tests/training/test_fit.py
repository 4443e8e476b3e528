"""The loop: one result per epoch, nothing lost when it stops."""

import itertools
from pathlib import Path

import pytest
import torch

from nas_optuna.data import Augmentation, BatchLoader, load_data
from nas_optuna.errors import Interrupted, TrainingError
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import DataSpec, Recipe
from nas_optuna.training import CheckpointFolder, EpochResult, evaluate, fit, make_network
from nas_optuna.training.evaluate import balanced_accuracy, macro_f1, widest_float
from nas_optuna.training.fit import epoch_order
from nas_optuna.training.raw_images import as_batch

CPU = torch.device("cpu")
SPACE = ConvSpace(depth=2, input_size=8)
ARCHITECTURE = SPACE.parse("f16k3s1-f24k3s1")
RECIPE = Recipe(epochs=4, batch_size=50)
DATA = load_data(DataSpec(train_limit=400))
TRAIN = BatchLoader(DATA.train, 50, 8, CPU)
VALIDATION = BatchLoader(DATA.validation, 50, 8, CPU)


def trained(recipe: Recipe = RECIPE, **options: object) -> tuple[torch.nn.Module, list[EpochResult]]:
    network = make_network(SPACE, ARCHITECTURE, recipe, CPU, seed=0)
    results = list(fit(network, TRAIN, VALIDATION, recipe, CPU, seed=0, **options))  # type: ignore[arg-type]
    return network, results


def figures(results: list[EpochResult]) -> list[tuple[float, float, float, float]]:
    return [(r.train_loss, r.train_accuracy, r.loss, r.accuracy) for r in results]


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_it_learns() -> None:
    _, results = trained(Recipe(epochs=8, batch_size=50, learning_rate=5e-3))
    assert [r.epoch for r in results] == list(range(1, 9))
    assert results[-1].accuracy > 0.8
    assert results[-1].train_loss < results[0].train_loss / 2


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    trained()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop_in", [1, 2, 4])
def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path: Path, stop_in: int, optimizer: str) -> None:
    recipe = RECIPE.model_copy(update={"optimizer": optimizer})
    whole, expected = trained(recipe)
    steps = itertools.count()
    stop_at = (stop_in - 1) * len(TRAIN) + 2
    checkpoints = CheckpointFolder(tmp_path / "c")
    with pytest.raises(Interrupted):
        trained(recipe, checkpoints=checkpoints, interrupted=lambda: next(steps) == stop_at)
    saved = {path.name for path in (tmp_path / "c").glob("*")}
    assert saved == {f"epoch-{n}" for n in (stop_in - 2, stop_in - 1) if n > 0}
    resumed, results = trained(recipe, checkpoints=checkpoints)
    assert figures(results) == figures(expected)
    assert same_weights(whole, resumed)


def test_a_loss_that_is_not_finite_is_told_with_its_cause() -> None:
    with pytest.raises(TrainingError) as caught:
        trained(RECIPE.model_copy(update={"optimizer": "sgd", "learning_rate": 1e9}))
    assert caught.value.cause == "non-finite loss"


def test_an_evaluation_agrees_with_the_training_and_restores_the_mode() -> None:
    network, results = trained()
    network.train()
    found = evaluate(network, VALIDATION, CPU, torch.float32)
    assert network.training
    right = int((found.predicted == DATA.validation.labels).sum())
    assert found.accuracy == results[-1].accuracy == right / len(DATA.validation)


def test_figures_of_each_class_need_no_table_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, targets = torch.randn(500, 7, generator=generator), torch.randint(0, 6, (500,), generator=generator)
    outputs[:, 5] = -9.0  # a class that nothing is taken for, beside one that does not occur
    table = torch.zeros(7, 7, dtype=torch.float64).index_put_(
        (targets, outputs.argmax(1)), torch.ones(500, dtype=torch.float64), accumulate=True
    )
    right, there, either = table.diagonal(), table.sum(1), table.sum(0) + table.sum(1)
    assert torch.equal(balanced_accuracy(outputs, targets), (right / there.clamp_min(1)).sum() / 6)
    assert torch.equal(macro_f1(outputs, targets), (2 * right / either.clamp_min(1)).sum() / 7)
    many = torch.zeros(2, 100_000)  # a table of all pairs would have 80 GB
    assert macro_f1(many, torch.tensor([0, 99_999])) == pytest.approx((2 / 3) / 2)


def test_on_apples_gpus_no_number_of_64_bits_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    assert widest_float(torch.device("mps")) == torch.float32
    moved, real = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: [moved.append(tensor.dtype), real(tensor)][1])
    as_batch(torch.zeros(1, 8, 8), DATA.train.pixel_format(8))
    assert moved == [torch.float32]


def test_mixed_images_train_and_are_counted_by_their_larger_part() -> None:
    recipe = Recipe(epochs=8, batch_size=50, learning_rate=5e-3, mix=0.5, label_smoothing=0.1)
    network = make_network(SPACE, ARCHITECTURE, recipe, CPU, seed=0)
    train = BatchLoader(DATA.train, 50, 8, CPU, Augmentation.of(recipe, DATA.train))
    results = list(fit(network, train, VALIDATION, recipe, CPU, seed=0))
    assert results[-1].accuracy > 0.7
    assert results[0].train_accuracy < results[-1].train_accuracy < 1


@pytest.mark.parametrize(("images", "size"), [(10, 3), (10, 10), (4, 9), (7, 7), (5, 1)])
def test_epochs_of_a_size_take_every_image_before_one_comes_again(images: int, size: int) -> None:
    taken = torch.cat([epoch_order(3, epoch, images, size) for epoch in range(1, 21)])
    for part in taken[: len(taken) // images * images].split(images):
        assert sorted(part.tolist()) == list(range(images))
    assert not torch.equal(taken[:images], epoch_order(4, 1, images, images))


@pytest.mark.parametrize("resident", [True, False])
def test_an_epoch_of_a_size_has_its_steps_and_resumes(tmp_path: Path, resident: bool) -> None:
    recipe = RECIPE.model_copy(update={"epoch_size": 120, "schedule": "one-cycle", "decay_norms": False})
    train = BatchLoader(DATA.train, 50, 8, CPU, resident=resident)

    def train_until(epochs: int | None, checkpoints: CheckpointFolder | None) -> tuple[torch.nn.Module, list[float]]:
        network = make_network(SPACE, ARCHITECTURE, recipe, CPU, seed=0)
        results = fit(network, train, None, recipe, CPU, seed=0, checkpoints=checkpoints)
        return network, [result.train_loss for result in itertools.islice(results, epochs)]

    whole, expected = train_until(None, None)
    train_until(2, CheckpointFolder(tmp_path))
    resumed, found = train_until(None, CheckpointFolder(tmp_path))
    assert len(expected) == 4
    assert found == expected
    assert same_weights(whole, resumed)
