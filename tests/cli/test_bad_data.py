"""Data that are absent, damaged or no longer the same: one line that names them and the remedy."""

import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.refusals import RUN, refused
from tests.helpers import Command, tiny


def test_mnist_absent_with_no_network(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:1/", "http://no.invalid/"])
    says = (
        str(tmp_path / "data"),
        "train-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte in MNIST/raw",
        "digits-quick, which needs no download",
    )
    for arguments in (("run", "--study", "m"), ("study", "create", "m")):
        refused(command, *arguments, "--spec", "mnist-fast", says=says)
    refused(command, "data", "fetch", "mnist", says=says)


def test_a_mirror_that_never_answers(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    monkeypatch.setattr("nas_optuna.data.catalog.NETWORK_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{port}/"])
        refused(command, "data", "fetch", "mnist", says=("timed out", "put train-images-idx3-ubyte"))
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("damage", ["short header", "short images", "no digits"])
def test_mnist_damaged(command: Command, tmp_path: Path, damage: str) -> None:
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    header = {
        "short header": b"\x00\x00\x08",
        "short images": b"\x00\x00\x08\x03\x00\x00\x00\x02\x00\x00\x00\x1c\x00\x00\x00\x1c" + bytes(784),
        "no digits": b"\x1f\x8b\x08\x00compressed",
    }[damage]
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x02\x01\x02")
    refused(command, "data", "fetch", "mnist", says=("'mnist'", "MNIST/raw", str(tmp_path / "data"), "remove"))


def image_folder(root: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((8, 8), 100 * label + i, np.uint8)).save(root / name / f"{i}.png")
    return root


def test_image_folders(command: Command, tmp_path: Path) -> None:
    def refuses(root: Path, *says: str) -> None:
        refused(command, *RUN, *tiny(data__train_limit=16), "--set", f"data.name=folder:{root}", says=says)

    refuses(tmp_path / "absent", "absent does not exist; it should hold one directory per class")
    refuses(
        image_folder(tmp_path / "one", ("cat",)), "1 class folder, of which 1 hold a picture", "at least two are needed"
    )
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "dog").mkdir()
    refuses(tmp_path / "empty", "2 class folders, of w")
    refuses(tmp_path / "one" / "cat", "holds pictures but no directory per class", "into a directory of its own")
    good = image_folder(tmp_path / "good")
    damaged = (good / "dog" / "3.png").read_bytes()[:45]
    for content, problem in (
        (b"", "cannot be used: it is empty; delete it"),
        (b"GIF", "cannot be used: it is damaged, or none of "),
        (b"<html>", "convert it to PNG or JPEG, or delete it"),
        (damaged, "not an image that can be read (image file is truncated); repair or delete it"),
    ):
        (good / "dog" / "3.png").write_bytes(content)
        refuses(good, f"{good / 'dog' / '3.png'} ", problem)


def test_a_damaged_test_picture_is_told_before_the_search_and_later_not_to_be_deleted(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train, test = image_folder(tmp_path / "pets/train"), image_folder(tmp_path / "pets/test")
    whole = (test / "dog" / "3.png").read_bytes()
    data = ("--set", f"data.name=folder:{tmp_path / 'pets'}", "--spec", "digits-quick", *tiny(data__train_limit=16))
    for words in (RUN, ("study", "create")):
        (test / "dog" / "3.png").write_bytes(whole[:45])
        refused(command, *words, *data, says=("3.png is not an image that can be read", "repair or delete it"))
        assert not Path("nas-optuna.db").exists()
    (test / "dog" / "3.png").write_bytes(whole)
    with monkeypatch.context() as patch:
        patch.setattr("nas_optuna.data.source.FileSource.test", lambda source: pytest.fail("the test part is kept"))
        patch.setattr("nas_optuna.data.folder._MANY", 19)
        created = command(*RUN, *data)
    assert created.code == 0, created.err
    assert caplog.messages.count("reading 20 test pictures once, to see that none is damaged") == 1
    (test / "dog" / "3.png").write_bytes(whole[:45])
    (train / "dog" / "3.png").write_bytes(whole[:45])
    for words in (RUN, ("retrain",)):
        refused(command, *words, says=("; repair or replace it; study 'nas' goes on with the same images only",))
    (train / "dog" / "3.png").write_bytes(whole)
    assert "; repair or replace it; study 'nas' goes on" in command("retrain").err


def test_a_class_that_only_the_test_part_has(command: Command, tmp_path: Path) -> None:
    image_folder(tmp_path / "train")
    image_folder(tmp_path / "test", ("cat", "cow"))
    refused(command, "data", "fetch", f"folder:{tmp_path}", says=("'cow'", "no such class in train"))


def test_npz_files(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "x.npz"

    def refuses(*says: str) -> None:
        refused(command, *RUN, "--set", f"data.name=npz:{file}", says=(str(file), *says))

    refuses("it does not exist")
    file.write_bytes(b"PK\x03\x04 broken")
    refuses("not an .npz file")
    with file.open("wb") as stream:
        np.save(stream, np.zeros(3))
    refuses("not an .npz file")
    images, labels = np.zeros((4, 8, 8), np.uint8), np.array([0, 1, 0, 1])
    np.savez(file, images=images)
    refuses("labels")
    np.savez(file, images=np.full((4, 8, 8), {}, dtype=object), labels=labels)
    refuses("holds Python objects, which are not read")
    np.savez(file, images=images[0, 0], labels=labels)
    refuses("images [8] uint8 cannot be images", "[n, height, width]")
    np.savez(file, images=images, labels=labels[:3])
    refuses("labels [3] int64 do not fit")
    np.savez(file, images=images, labels=np.full(4, 0.5))
    refuses("labels")
    np.savez(file, images=images[:0], labels=labels[:0])
    refuses("0 images are too few")
    np.savez(file, images=images[:, :0, :0], labels=labels)
    refuses("no image with a pixel and a channel")


def test_images_that_have_changed_since(command: Command, tmp_path: Path) -> None:
    data = ("--set", f"data.name=folder:{image_folder(tmp_path / 'pets')}", "--spec", "digits-quick")
    settings = tiny(data__train_limit=16)
    assert command(*RUN, *settings, *data).code == 0
    (tmp_path / "pets").rename(tmp_path / "animals")
    supernet = [("supernet", verb) for verb in ("train", "export", "check")]
    for words in (RUN, ("retrain",), ("export", "--out", "model"), *supernet):
        refused(command, *words, says=("pets does not exist", "if the images were moved", "--data folder:NEW/PATH"))
    for words in supernet:
        refused(command, *words, "--data", f"folder:{tmp_path / 'birds'}", says=("birds does not exist",))
    moved = command(*RUN, "--set", f"data.name=folder:{tmp_path / 'animals'}")
    assert moved.code == 0, "the content decides, not the path"
    assert command(*RUN).code == 0, "and the new path is remembered"
    (tmp_path / "animals").rename(tmp_path / "beasts")
    assert command("retrain", "--data", f"folder:{tmp_path / 'beasts'}").code == 0
    assert command("export", "--out", "model").code == 0, "and remembered"
    (tmp_path / "beasts").rename(tmp_path / "animals")
    assert command("export", "--out", "model", "--data", f"folder:{tmp_path / 'animals'}").code == 0
    (tmp_path / "animals" / "dog" / "3.png").write_bytes((tmp_path / "animals" / "cat" / "1.png").read_bytes())
    for words in (RUN, ("retrain",), ("export", "--out", "model")):
        refused(command, *words, says=("are not those that study 'nas' began with", "under another name"))
    image_folder(tmp_path / "animals", ("cow",))
    refused(command, *RUN, says=("study 'nas' began with other data (classes", "under another name"))


def test_only_what_is_downloaded_is_said_to_be_kept(command: Command, tmp_path: Path) -> None:
    for name in ("digits", f"folder:{image_folder(tmp_path / 'good')}"):
        found = command("data", "fetch", name)
        assert found.code == 0
        assert "kept in" not in found.err
