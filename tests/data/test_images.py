from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nas_optuna import ImageSet, SearchData, load_data
from nas_optuna.data import load_images, split
from nas_optuna.data.images import stratified_order
from nas_optuna.errors import DataError, SpecError
from nas_optuna.spec import DataSpec
from tests.hostile import new_peak, peak


def numbered(labels: list[int], classes: int) -> ImageSet:
    """Images whose first two pixels are their number, so that none can be mistaken for another."""
    images = torch.zeros(len(labels), 1, 1, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(labels)) % 256
    images[:, 0, 0, 1] = torch.arange(len(labels)) // 256
    return ImageSet(images, torch.tensor(labels), tuple(map(str, range(classes))))


def numbers(images: ImageSet) -> list[int]:
    pixels = images.images[:, 0, 0].long()
    return (pixels[:, 0] + 256 * pixels[:, 1]).tolist()


label_lists = st.integers(2, 5).flatmap(
    lambda classes: st.tuples(st.just(classes), st.lists(st.integers(0, classes - 1), min_size=10, max_size=400))
)


@given(label_lists, st.floats(0.1, 0.9), st.integers(0, 99))
def test_a_split_is_a_division_stratified_and_fixed(drawn: tuple[int, list[int]], fraction: float, seed: int) -> None:
    classes, labels = drawn
    whole = numbered(labels, classes)
    train, validation = split(whole, fraction, seed)
    assert sorted(numbers(train) + numbers(validation)) == list(range(len(labels)))
    assert len(validation) == round(len(labels) * fraction)
    share = len(validation) / len(labels)
    for label in range(classes):
        count = labels.count(label)
        assert abs(validation.labels.tolist().count(label) - count * share) <= classes
    for part in (train, validation):
        assert [labels[i] for i in numbers(part)] == part.labels.tolist()
        assert (part.mean, part.std, part.classes) == (whole.mean, whole.std, whole.classes)
    again = split(whole, fraction, seed)
    assert (numbers(again[0]), numbers(again[1])) == (numbers(train), numbers(validation))


@given(label_lists, st.integers(0, 99), st.data())
def test_each_beginning_of_a_stratified_order_has_each_class_in_its_share(
    drawn: tuple[int, list[int]], seed: int, data: st.DataObject
) -> None:
    classes, labels = drawn
    order = stratified_order(torch.tensor(labels), seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    size = data.draw(st.integers(1, len(labels)))
    for label in range(classes):
        found = sum(labels[i] == label for i in order[:size])
        assert abs(found - labels.count(label) * size / len(labels)) <= classes


def test_another_seed_gives_another_split() -> None:
    whole = numbered([0, 1] * 50, 2)
    assert numbers(split(whole, 0.2, 0)[1]) != numbers(split(whole, 0.2, 1)[1])


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_split_with_an_empty_part_is_refused(fraction: float) -> None:
    with pytest.raises(DataError, match=rf"10 images cannot be split with validation_fraction = {fraction}"):
        split(numbered([0, 1] * 5, 2), fraction, 0)


def test_train_limit_takes_a_stratified_part_of_the_same_images() -> None:
    limited = load_data(DataSpec(name="digits", train_limit=200))
    assert (len(limited.train), len(limited.validation)) == (160, 40)
    both = torch.cat((limited.train.labels, limited.validation.labels))
    assert torch.bincount(both).min() >= 18
    whole = load_data("digits")
    known = {image.numpy().tobytes() for part in (whole.train, whole.validation) for image in part.images}
    assert {image.numpy().tobytes() for image in limited.train.images} <= known
    same = load_data(DataSpec(name="digits", train_limit=200))
    assert torch.equal(same.train.images, limited.train.images)


def test_selection_by_test_accuracy_trains_on_everything() -> None:
    usual, reference = load_data("digits"), load_data(DataSpec(name="digits", select_on="test"))
    assert len(reference.train) == len(usual.train) + len(usual.validation) == 1438
    assert len(reference.validation) == 359
    seen = {image.numpy().tobytes() for image in reference.train.images}
    unseen = [image.numpy().tobytes() not in seen for image in reference.validation.images]
    assert np.mean(unseen) > 0.99
    limited = load_data(DataSpec(name="digits", select_on="test", train_limit=100))
    assert (len(limited.train), len(limited.validation)) == (100, 359)


def test_statistics_are_those_of_the_pixels() -> None:
    images = torch.randint(0, 256, (50, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = ImageSet(images, torch.arange(50) % 2, ("a", "b"))
    pixels = images.double() / 255
    assert found.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-12)
    assert found.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-12)
    flat = ImageSet(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.arange(2), ("a", "b"))
    assert flat.std == (1 / 255,), "images of one colour do not divide by zero"


@pytest.mark.parametrize(
    ("images", "labels", "classes", "message"),
    [
        (torch.zeros(2, 1, 3, 3), torch.arange(2), 2, "uint8"),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.arange(2), 2, r"\[2, 3, 3\]"),
        (
            torch.zeros(2, 1, 3, 3, dtype=torch.uint8),
            torch.zeros(3).long(),
            2,
            r"int64 \[2\] on .*int64 \[3\]",
        ),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2), 2, "int64"),
        (torch.zeros(0, 1, 3, 3, dtype=torch.uint8), torch.zeros(0).long(), 2, "no image"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(2).long(), 1, "2 to 100,000"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 2]), 2, "0 … 1, got 0 … 2"),
        (torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([-1, 1]), 2, "got -1 … 1"),
    ],
)
def test_what_is_no_image_set_is_refused(
    images: torch.Tensor, labels: torch.Tensor, classes: int, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ImageSet(images, labels, tuple(map(str, range(classes))))


def test_a_class_name_that_no_file_can_hold_is_refused() -> None:
    with pytest.raises(DataError, match=r"the class name '.' holds what is no character"):
        ImageSet(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.arange(2), ("a", "\ud800"))


def test_the_histogram_of_pixels_counts_bytes_not_images() -> None:
    """A quarter of a gigabyte of images, whose statistics once took two more."""
    images = torch.empty(16, 1, 4096, 4096, dtype=torch.uint8).fill_(0)
    images[8:] = 255
    before = new_peak()
    found = ImageSet(images, torch.arange(16) % 2, ("a", "b"))
    assert found.mean == (0.5,)
    assert peak() - before < 150_000, "kilobytes"


def _shapes(count: int, draw: Callable[[Tensor, int, int], None], side: int = 32) -> ImageSet:
    """Grey images with noise, into each of which a shape of one of three classes is drawn at a random place."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (count, 1, side, side), dtype=torch.uint8, generator=rng)
    places = torch.randint(-2, 3, (count, 2), generator=rng)
    labels = torch.arange(count) % 3
    for image, label, place in zip(images, labels.tolist(), places.tolist(), strict=True):
        drawn = torch.zeros(side, side, dtype=torch.uint8)
        draw(drawn, label, side // 4)
        image[0] |= drawn.roll(place, (0, 1))
    return ImageSet(images, labels, ("first", "second", "third"))


def _hook(image: Tensor, kind: int, unit: int) -> None:
    """An L, its mirror image, or a bar."""
    image[unit:-unit, 2 * unit] = 255
    if kind < 2:
        image[-unit, unit if kind else 2 * unit : 2 * unit if kind else 3 * unit] = 255


def _bar(image: Tensor, kind: int, unit: int) -> None:
    """A bar at the top, in the middle or at the bottom."""
    image[(kind + 1) * unit, unit:-unit] = 255


@pytest.mark.parametrize("side", [32, 200])
def test_what_a_mirror_makes_another_class_of_is_found_by_its_pixels(side: int) -> None:
    assert _shapes(600, _hook, side).is_chiral
    assert not _shapes(600, _bar, side).is_chiral


def test_the_digits_are_chiral_whatever_their_classes_are_called() -> None:
    digits = load_images("digits", True)
    assert replace(digits, classes=tuple(f"{i} - {i}" for i in range(10))).is_chiral


@pytest.mark.parametrize("count", [2, 3, 5, 30, 700])
def test_noise_is_not_chiral(count: int) -> None:
    images = torch.randint(0, 256, (count, 3, 9, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    assert not ImageSet(images, torch.arange(count) % 2, ("cat", "dog")).is_chiral


def test_a_search_and_the_last_training_mirror_alike_however_few_images_there_are() -> None:
    for count in range(60, 240, 20):
        spec = DataSpec(name="digits", train_limit=count)
        data, together = load_data(spec), load_images(spec, True)
        assert data.train.is_chiral == data.validation.is_chiral == together.is_chiral


def test_what_is_given_away_names_no_folder_of_this_machine() -> None:
    data = load_data("digits")
    assert data.title == "digits"
    assert replace(data, name="folder:/home/ada/photos/").title == "folder:photos"
    assert replace(data, name="npz:secret/arrays.npz").title == "npz:arrays.npz"


def test_parts_that_do_not_belong_together_are_no_data_of_a_search() -> None:
    data = load_data("digits")
    others = replace(data.validation, classes=tuple("abcdefghij"))
    colour = replace(data.validation, images=data.validation.images.expand(-1, 3, -1, -1), mean=())
    for part in (others, colour):
        with pytest.raises(DataError, match=r"the validation part has .*, and the training part .*; give both"):
            SearchData("mine", data.train, part)
    with pytest.raises(SpecError, match="a part of the data cannot be of type NoneType; give an ImageSet"):
        SearchData("mine", data.train, None)  # type: ignore[arg-type]
