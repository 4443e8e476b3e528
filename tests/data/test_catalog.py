import gzip
import hashlib
import struct
import unicodedata
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image

from nas_optuna import ImageSet, load_data
from nas_optuna.data import load_images
from nas_optuna.data.catalog import data_directory, data_name
from nas_optuna.data_sets import DATA_SETS, DESCRIPTIONS
from nas_optuna.errors import DataError, SpecError
from nas_optuna.spec import DataSpec


def picture(value: int, side: int = 6) -> np.ndarray:
    return np.full((side, side), value, np.uint8)


def test_every_set_has_a_name_and_a_description() -> None:
    assert set(DESCRIPTIONS) == set(DATA_SETS.builtin)
    assert set(DATA_SETS.builtin) >= {"digits", "mnist", "fashion-mnist", "kmnist", "emnist", "qmnist", "usps", "svhn"}
    assert set(DATA_SETS.builtin) >= {"cifar10", "cifar100"}
    assert DATA_SETS.names()[: len(DATA_SETS.builtin)] == list(DATA_SETS.builtin)


def test_digits() -> None:
    from sklearn.datasets import load_digits

    train, test = load_images("digits", True), load_images("digits", False)
    assert len(train) + len(test) == 1797
    assert train.images.shape[1:] == (1, 8, 8)
    assert train.classes == tuple("0123456789")
    whole = torch.cat((train.images, test.images)).flatten(1).sum(1).sort().values
    assert torch.equal(whole, torch.from_numpy(np.rint(load_digits().data * 255 / 16)).sum(1).long().sort().values)
    for part in (train, test):
        assert torch.bincount(part.labels).min() > 0.08 * len(part)


def test_mnist(mnist_directory: Path) -> None:
    train, test = (load_images("mnist", part, mnist_directory) for part in (True, False))
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert train.mean == (0.1307,)
    assert train.std == (0.3081,)
    pixels = train.images.double() / 255
    assert pixels.mean().item() == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std().item() == pytest.approx(0.3081, abs=5e-5)
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]


def idx(values: np.ndarray, kind: int = 8) -> bytes:
    header = bytes((0, 0, kind, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype({8: np.uint8, 12: ">i4"}[kind]).tobytes()


@pytest.mark.parametrize(
    ("name", "folder", "prefix", "classes"),
    [
        ("fashion-mnist", "FashionMNIST", "", 10),
        ("kmnist", "KMNIST", "", 10),
        ("emnist", "EMNIST", "emnist-balanced-", 47),
    ],
)
def test_sets_in_the_format_of_mnist(name: str, folder: str, prefix: str, classes: int, tmp_path: Path) -> None:
    raw = tmp_path / folder / "raw"
    raw.mkdir(parents=True)
    images = np.arange(3 * 28 * 28).reshape(3, 28, 28) % 251
    for part in ("train", "test" if prefix else "t10k"):
        (raw / f"{prefix}{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{prefix}{part}-labels-idx1-ubyte").write_bytes(idx(np.array([0, 2, 1])))
    for train in (True, False):
        found = load_images(name, train, tmp_path)
        assert found.labels.tolist() == [0, 2, 1]
        assert len(found.classes) == classes
        expected = images.transpose(0, 2, 1) if name == "emnist" else images
        assert np.array_equal(found.images[:, 0].numpy(), expected)
        assert len(found.mean) == 1


def test_what_another_user_has_downloaded_is_read(mnist_directory: Path, tmp_path: Path) -> None:
    """A lock that cannot be opened, as one that belongs to another user."""
    (tmp_path / "MNIST").symlink_to(mnist_directory / "MNIST")
    (tmp_path / ".MNIST.lock").mkdir()
    assert len(DATA_SETS.find("mnist")(True, tmp_path).images) == 60_000


def test_qmnist_has_one_label_an_image(tmp_path: Path) -> None:
    raw = tmp_path / "QMNIST" / "raw"
    raw.mkdir(parents=True)
    labels = np.zeros((4, 8))
    labels[:, 0] = [3, 1, 0, 2]
    for part, count in (("train", 4), ("test", 4)):
        (raw / f"qmnist-{part}-images-idx3-ubyte").write_bytes(idx(np.zeros((count, 28, 28))))
        (raw / f"qmnist-{part}-labels-idx2-int").write_bytes(idx(labels, kind=12))
    assert load_images("qmnist", True, tmp_path).labels.tolist() == [3, 1, 0, 2]


def test_cifar_from_its_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    import torchvision

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3072), dtype=np.uint8)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [7, 0, 9]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    # Made-up files have other checksums than the real ones; what is read from them is read the real way.
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
    train = load_images("cifar10", True, tmp_path)
    assert train.images.shape == (15, 3, 32, 32)
    assert np.array_equal(train.images[:3].reshape(3, 3072).numpy(), pixels)
    assert train.labels.tolist() == [7, 0, 9] * 5
    assert train.classes[7] == "class 7"
    assert len(train.std) == 3


def write_folder(root: Path, classes: dict[str, list[np.ndarray]]) -> Path:
    for name, pictures in classes.items():
        (root / name).mkdir(parents=True)
        for i, pixels in enumerate(pictures):
            Image.fromarray(pixels).save(root / name / f"{i:03}.png")
    return root


def test_a_folder_of_one_part_holds_out_a_fifth(tmp_path: Path) -> None:
    root = write_folder(
        tmp_path, {"dog": [picture(i) for i in range(20)], "cat": [picture(100 + i) for i in range(20)]}
    )
    (root / ".hidden").mkdir()
    (root / "cat" / "notes.txt").write_text("not an image")
    train, test = (load_images(f"folder:{root}", part) for part in (True, False))
    assert train.classes == ("cat", "dog")
    assert (len(train), len(test)) == (32, 8)
    assert torch.bincount(test.labels).tolist() == [4, 4]
    shades = torch.cat((train.images, test.images))[:, 0, 0, 0]
    assert sorted(shades.tolist()) == [*range(20), *range(100, 120)]
    assert torch.equal(train.labels, (train.images[:, 0, 0, 0] < 100).long())


def test_a_folder_with_its_own_test_part(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": [picture(1)], "b": [picture(2)], "c": [picture(3)]})
    write_folder(tmp_path / "test", {"a": [picture(4)], "c": [picture(6), picture(7)]})
    test = load_images(f"folder:{tmp_path}", False)
    assert load_images(f"folder:{tmp_path}", True).labels.tolist() == [0, 1, 2]
    assert test.classes == ("a", "b", "c")
    assert test.labels.tolist() == [0, 2, 2], "a class keeps its number where the test part lacks another"


def test_a_folder_of_many_sizes_and_kinds(tmp_path: Path) -> None:
    colour = np.zeros((10, 14, 3), np.uint8)
    colour[..., 0] = 200
    deep = np.full((12, 12), 40_000, np.uint16)
    write_folder(tmp_path, {"a": [picture(50, 10), colour], "b": [deep, picture(9, 30)]})
    whole = [load_images(f"folder:{tmp_path}", part) for part in (True, False)]
    images = {int(i[0, 0, 0]): i for part in whole for i in part.images}
    assert {image.shape for image in images.values()} == {(3, 10, 10)}, "the median of the shorter sides"
    assert sorted(images) == [9, 50, 156, 200]
    assert images[200][1].max() == 0
    assert torch.equal(images[50][0], images[50][2])


def test_npz(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (20, 5, 7), dtype=np.uint8)
    labels = np.arange(20) % 4
    file = tmp_path / "x.npz"
    np.savez(file, images=grey, labels=labels.astype(np.int32))
    train, test = (load_images(f"npz:{file}", part) for part in (True, False))
    assert (len(train), len(test)) == (16, 4)
    assert train.images.shape[1:] == (1, 5, 7)
    assert train.classes == ("0", "1", "2", "3")

    last = rng.integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    np.savez_compressed(file, images=last, labels=labels[:6], test_images=last[:2], test_labels=[0, 3])
    train, test = (load_images(f"npz:{file}", part) for part in (True, False))
    assert torch.equal(train.images, torch.from_numpy(last).permute(0, 3, 1, 2))
    assert len(test) == 2
    assert len(train.classes) == len(test.classes) == 4
    np.savez(file, images=last, labels=labels[:6], test_images=last[:2], test_labels=[0, 7])
    with pytest.raises(DataError, match="labels '7', which no training image has"):
        load_images(f"npz:{file}", False)


def squares(train: bool, directory: Path) -> ImageSet:
    """A data set of one's own: what a user writes."""
    labels = torch.arange(40) % 2
    return ImageSet((labels[:, None, None, None] * 255).to(torch.uint8).expand(-1, 3, 8, 8), labels, ("no", "yes"))


def test_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data(DataSpec(name=f"{__name__}:squares", validation_fraction=0.25))
    assert (len(data.train), len(data.validation)) == (30, 10)
    assert data.train.mean == pytest.approx((0.5, 0.5, 0.5))

    (tmp_path / "my_pictures.py").write_text(
        "import torch\nfrom nas_optuna import ImageSet\n"
        "def load(train, directory):\n"
        "    return ImageSet(torch.zeros(9, 1, 4, 4, dtype=torch.uint8), torch.arange(9) % 3, ('a', 'b', 'c'))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])
    assert len(load_images("my_pictures:load", True)) == 9, "found in the current folder"


def broken(train: bool, directory: Path) -> ImageSet:
    if train:
        return squares(train, directory)
    raise ZeroDivisionError("no test images")


def test_an_error_of_ones_own_function_says_where_it_is() -> None:
    with pytest.raises(SpecError, match=r"no test images \(test_catalog.py:\d+\)"):
        load_images(f"{__name__}:broken", False)
    with pytest.raises(SpecError, match=r"gave a list, not an ImageSet"):
        load_images(f"{__name__}:listed", True)
    with pytest.raises(DataError, match=r"from_numpy"):
        load_images(f"{__name__}:mistaken", True)
    with pytest.raises(SpecError, match=r"unknown name in .*: 'nowhere'; choose one of: [^;]*$"):
        load_images(f"{__name__}:nowhere", True)


def listed(train: bool, directory: Path) -> list[int]:
    return [int(train)]


def mistaken(train: bool, directory: Path) -> ImageSet:
    return ImageSet([0], torch.arange(2), ("a", "b"))  # type: ignore[arg-type]


def test_the_data_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAS_OPTUNA_DATA", str(tmp_path))
    assert data_directory() == tmp_path
    monkeypatch.delenv("NAS_OPTUNA_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_directory().name == "data"
    assert not data_directory().exists(), "asking makes nothing"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_compressed_download_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MNIST from a mirror, which here is this machine."""
    import torchvision

    mirror = tmp_path / "mirror"
    mirror.mkdir()
    resources = []
    for part in ("train", "t10k"):
        for what, values in (("images-idx3", np.zeros((4, 28, 28))), ("labels-idx1", np.arange(4))):
            name = f"{part}-{what}-ubyte.gz"
            (mirror / name).write_bytes(gzip.compress(idx(values)))
            resources.append((name, hashlib.md5((mirror / name).read_bytes()).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=mirror)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        assert load_images("mnist", True, tmp_path / "data").labels.tolist() == [0, 1, 2, 3]
        (mirror / resources[0][0]).write_bytes(b"something else")
        with pytest.raises(DataError, match="corrupted"):
            load_images("mnist", True, tmp_path / "other")
        server.shutdown()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SpecError, match=r"did you mean 'cifar100'"):
        load_images("cifar-100", True)


def test_the_name_of_a_folder_alone_is_answered_with_what_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shapes").mkdir()
    with pytest.raises(SpecError, match="the folder of that name is folder:shapes"):
        load_images("shapes", True)


def test_parts_may_write_the_same_labels_and_pixels_in_different_ways(tmp_path: Path) -> None:
    rng, labels = np.random.default_rng(0), np.arange(12) % 3
    images = rng.integers(0, 256, (12, 5, 7, 1), dtype=np.uint8)
    parts = {"val_images": images[:6, ..., 0], "val_labels": labels[:6].astype(str), "test_labels": labels[:3]}
    file = tmp_path / "x.NPZ"
    np.savez(file.open("wb"), images=images, labels=labels, test_images=images[:3].transpose(0, 3, 1, 2), **parts)
    data = load_data(data_name(str(file)))
    assert data.train.labels.tolist() == labels.tolist()
    assert data.validation.labels.tolist() == labels[:6].tolist()
    assert torch.equal(data.validation.images, data.train.images[:6])
    assert torch.equal(load_images(f"npz:{file}", False).images, data.train.images[:3])
    np.savez(file.open("wb"), images=images, labels=labels, test_images=images[:1], test_labels=["2nd"])
    with pytest.raises(DataError, match="the test part has the labels '2nd', which no training image has"):
        load_images(f"npz:{file}", False)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_of_a_name_in_either_form_do_not_change_how_deep_its_pictures_lie(form: str, tmp_path: Path) -> None:
    """A Mac writes é as two characters."""
    one, other = (unicodedata.normalize(form, name) for name in ("café", "thé"))
    write_folder(tmp_path / one, {"hot": [picture(1), picture(2)], "iced": [picture(3), picture(4)]})
    write_folder(tmp_path, {other: [picture(i) for i in range(5, 9)]})
    assert load_images(f"folder:{tmp_path}", True).classes == ("café", "thé")
    write_folder(tmp_path / other, {"hot": [picture(i) for i in range(10, 20)]})
    with pytest.raises(
        DataError, match=f"lie too deep, in '{one}/hot', '{one}/iced'; .* name folder:{tmp_path / one} "
    ):
        load_images(f"folder:{tmp_path}", True)
