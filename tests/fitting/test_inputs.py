"""Whatever a person gives as pictures is understood, or refused in one line."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from nas_optuna import ImageSet, load_data
from nas_optuna.data import load_images
from nas_optuna.errors import DataError, StudyError
from nas_optuna.fitting import inputs
from nas_optuna.fitting.inputs import name_of

COUNT = 40
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (COUNT, 8, 8), np.uint8)
COLOUR = RNG.integers(0, 256, (COUNT, 8, 9, 3), np.uint8)
LABELS = np.arange(COUNT) % 2
NAMES = ["cat", "dog"] * (COUNT // 2)
PICTURES = [Image.fromarray(pixels) for pixels in COLOUR]


class Items(Dataset[Any]):
    """What a function gives, by its number."""

    classes = ("cat", "dog")

    def __init__(self, item: Callable[[int], Any]) -> None:
        self.item = item

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


class Shaped(Items):
    """It says the shape of its images."""

    shape = (8, 8)


class Column(Sequence[Any]):
    """What a table reads when it is asked for, without a shape."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: Any) -> Any:
        return self.values[range(COUNT)[index]]


class Stream(IterableDataset[Any]):
    """What gives its items one after the other alone, and says how many they are."""

    def __len__(self) -> int:
        return COUNT

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(GREY, LABELS, strict=True))


class Unmeasured(Items):
    """It cannot say how many items it has."""

    def __len__(self) -> int:
        raise OSError("the index file is gone")


@pytest.mark.parametrize(
    "labels",
    [
        LABELS,
        LABELS.astype(float),
        LABELS.astype(bool),
        LABELS.tolist(),
        torch.from_numpy(LABELS),
        list(torch.from_numpy(LABELS)),
        NAMES,
        [np.str_(name) for name in NAMES],
        [name.encode() for name in NAMES],
        np.array(NAMES, dtype=object),
        np.eye(2)[LABELS],
        torch.eye(2)[torch.from_numpy(LABELS)],
        np.eye(2)[LABELS].tolist(),
    ],
)
def test_labels_of_any_kind_are_two_classes(tmp_path: Path, labels: Any) -> None:
    data = load_data(name_of((GREY, labels), tmp_path))
    assert data.train.classes in {("0", "1"), ("cat", "dog")}
    assert len(data.train) + len(data.validation) == COUNT * 4 // 5


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (GREY, (1, 8, 8)),
        (list(GREY), (1, 8, 8)),
        (GREY.tolist(), (1, 8, 8)),
        (torch.rand(COUNT, 3, 8, 8, dtype=torch.bfloat16, requires_grad=True), (3, 8, 8)),
        (PICTURES, (3, 8, 9)),
        ([picture.convert("L") for picture in PICTURES], (1, 8, 9)),
        ([picture.convert("RGBA") for picture in PICTURES], (3, 8, 9)),
        ([picture.quantize(16) for picture in PICTURES], (3, 8, 9)),
        ([picture.convert("L").quantize(16) for picture in PICTURES], (1, 8, 9)),
        ([*PICTURES[:20], *(picture.convert("P") for picture in PICTURES[20:])], (3, 8, 9)),
        ([Image.fromarray(pixels.astype(np.uint16) * 16) for pixels in GREY], (1, 8, 8)),
    ],
)
def test_images_of_any_kind_are_read(tmp_path: Path, images: Any, shape: tuple[int, ...]) -> None:
    assert load_data(name_of((images, LABELS), tmp_path)).train.images.shape[1:] == shape


@pytest.mark.parametrize("as_pair", [True, False])
def test_columns_that_are_read_by_number_are_images_and_labels(tmp_path: Path, as_pair: bool) -> None:
    images, labels = Column(GREY), Column(LABELS)
    given: Any = (images, labels) if as_pair else {"images": images, "labels": labels}
    assert load_data(name_of(given, tmp_path)).train.images.shape[1:] == (1, 8, 8)


def test_a_dataset_may_say_the_shape_of_its_items(tmp_path: Path) -> None:
    dataset = Shaped(lambda i: (GREY[i], int(LABELS[i])))
    assert load_data(name_of(dataset, tmp_path)).train.images.shape[1:] == (1, 8, 8)


def test_pil_images_keep_their_pixels(tmp_path: Path) -> None:
    name_of((PICTURES, LABELS), tmp_path)
    with np.load(tmp_path / "images.npz") as kept:
        assert np.array_equal(kept["images"], COLOUR.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    "item",
    [
        lambda i: (PICTURES[i], i % 2),
        lambda i: (torch.from_numpy(COLOUR[i]).permute(2, 0, 1) / 255, torch.tensor(i % 2)),
        lambda i: (COLOUR[i], np.int64(i % 2)),
        lambda i: (COLOUR[i], NAMES[i]),
    ],
)
def test_a_dataset_keeps_the_names_of_its_classes(tmp_path: Path, item: Callable[[int], Any]) -> None:
    assert load_data(name_of(Items(item), tmp_path / "whole")).train.classes == ("cat", "dog")
    part = Subset(Items(item), range(30))
    found = load_data(name_of(part, tmp_path / "part"))
    assert found.train.classes == ("cat", "dog")
    assert len(found.train) + len(found.validation) == 24


def test_a_set_of_ours_is_read(tmp_path: Path) -> None:
    given = ImageSet(torch.from_numpy(GREY)[:, None], torch.from_numpy(LABELS), ("cat", "dog"))
    read = load_data(name_of(given, tmp_path)).train
    assert read.classes == ("cat", "dog")
    assert {bytes(image) for image in read.images.numpy()} <= {bytes(image) for image in GREY}


def test_a_dictionary_may_have_a_test_part(tmp_path: Path) -> None:
    arrays = {"x_train": GREY, "y_train": NAMES, "x_test": GREY[:4], "y_test": NAMES[:4]}
    data = load_data(name_of(arrays, tmp_path))
    assert len(data.train) + len(data.validation) == COUNT


def test_pil_images_of_a_dictionary_are_pictures_with_as_many_channels_in_each_part(tmp_path: Path) -> None:
    colours, grey = [picture.quantize(16) for picture in PICTURES], [picture.convert("L") for picture in PICTURES]
    exif = Image.Exif()
    exif[0x0112] = 3
    for picture in grey:
        picture.info["exif"] = exif.tobytes()
    arrays = {"x_train": grey, "y_train": NAMES, "x_test": iter(colours), "y_test": NAMES, "file": NAMES}
    name = name_of(arrays, tmp_path)
    train, test = load_images(name, True), load_images(name, False)
    assert "left out: arrays whose names mean nothing here (1): 'file'" in train.notes
    assert np.array_equal(train.images[0, 2].numpy(), np.asarray(grey[0])[::-1, ::-1])
    assert np.array_equal(test.images[0].permute(1, 2, 0).numpy(), np.asarray(colours[0].convert("RGB")))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (([], []), "there are no images"),
        ({"images": NAMES, "labels": LABELS}, "images must be arrays, tensors or PIL images, not 'cat'"),
        ([], "there are no images"),
        ({}, "it holds no array"),
        ({"cat": GREY, "dog": GREY}, "an .npz file has arrays 'images' and 'labels'"),
        ((GREY, LABELS[:5]), "do not fit"),
        ((GREY, [0.7] * COUNT), "holds no labels; these are"),
        ((GREY, [None] * COUNT), "the labels are of type object"),
        ((GREY, [*NAMES[1:], 1]), "some labels are names and others are not"),
        ((GREY, "cat"), "one for each image"),
        ((GREY, dict(enumerate(NAMES))), "one for each image, in their order"),
        ((GREY, set(range(COUNT))), "one for each image, in their order"),
        ((dict(enumerate(GREY)), LABELS), "images must be arrays"),
        ((GREY[:30], GREY[30:], LABELS[:30], LABELS[30:]), r"4 parts; .* x_train, y_train"),
        (([np.zeros((8, 8)), np.zeros((9, 9))], [0, 1]), r"several shapes \(8×8, 9×9\)"),
        (([PICTURES[0], PICTURES[1].resize((4, 4))], [0, 1]), r"several shapes \(3×4×4, 3×8×9\)"),
        ((torch.empty(COUNT, 8, 8, device="meta"), LABELS), "cannot be read as an array"),
        ((torch.randn(COUNT, 3, 8, 8), LABELS), "leave Normalize out of a transform"),
        ((np.full((COUNT, 8, 8), np.nan), LABELS), "lie in nan"),
        ((["a.png"] * COUNT, LABELS), "not 'a.png'"),
        (("photos", "more"), "not 'photos'"),
        ((None, None), "not None"),
        (GREY, r"images without labels; give the pair \(images, labels\)"),
        (((GREY, LABELS), (GREY, LABELS)), "divided into 2 parts; give one dictionary of arrays: x_train"),
        ([Items(lambda i: (GREY[i], 0))] * 3, "divided into 3 parts; give one dictionary of arrays: x_train"),
        ({"train": Items(lambda i: (GREY[i], 0))}, "divided into 1 part; give one dictionary of arrays: x_train"),
        (Stream(), r"a Stream holds no pictures.*the list of what it gives, if that is pairs \(image, label\)"),
        (
            Unmeasured(lambda i: (GREY[i], 0)),
            r"the Unmeasured does not say its length \(OSError: the index file is gone",
        ),
        (Items(lambda i: {"image": GREY[i], "label": i}), r"an item of the Items is a dict"),
        (Items(lambda i: 1 // 0), "item 0 of the Items cannot be read"),
        (Items(lambda i: (GREY[i], 0.7)), "holds no labels; these are"),
        (DataLoader(TensorDataset(torch.from_numpy(GREY))), "a DataLoader holds no pictures"),
        (3, "a int holds no pictures"),
    ],
)
def test_what_is_no_data_set_is_one_line_and_writes_nothing(tmp_path: Path, data: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as refused:
        name_of(data, tmp_path / "model")
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("model/*"))


def test_one_class_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it must be 2 to 100,000"):
        load_data(name_of((GREY, [0] * COUNT), tmp_path))


def test_the_same_arrays_are_not_written_again(tmp_path: Path) -> None:
    name_of((GREY, LABELS), tmp_path)
    written = (tmp_path / "images.npz").stat().st_mtime_ns
    name_of((list(GREY), LABELS.tolist()), tmp_path)
    assert (tmp_path / "images.npz").stat().st_mtime_ns == written


def test_one_array_in_place_of_those_of_a_call_is_not_replaced(tmp_path: Path) -> None:
    with (tmp_path / "images.npz").open("wb") as file:
        np.save(file, GREY)
    with pytest.raises(StudyError, match="is there already, and no fit began with it"):
        name_of((GREY, LABELS), tmp_path)


def test_one_call_at_a_time_keeps_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused = inputs._write, []

    def meanwhile(path: Path, arrays: Any) -> None:
        with pytest.raises(StudyError, match="another fit works in") as error:
            name_of((255 - GREY, LABELS), tmp_path)
        refused.append(error)
        real(path, arrays)

    monkeypatch.setattr(inputs, "_write", meanwhile)
    name_of((GREY, LABELS), tmp_path)
    assert len(refused) == 1
    with np.load(tmp_path / "images.npz") as kept:
        assert np.array_equal(kept["images"], GREY)
