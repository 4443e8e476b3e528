"""One description of pixels, four readers: the loader, ``predict``, an exported ``model.py``, ONNX by its README."""

import ast
import dataclasses
import io
import json
import os
import random
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from nas_optuna import load_network
from nas_optuna.data import BatchLoader, ImageSet, load_data, load_images
from nas_optuna.data import pixels as pixels_module
from nas_optuna.data.pictures import picture_pixels
from nas_optuna.data.pixels import MAX_PIXELS, PixelFormat, is_transparent, read_picture
from nas_optuna.errors import DataError
from nas_optuna.export import export_network
from nas_optuna.fitting.inputs import name_of
from nas_optuna.spaces import create_space
from nas_optuna.spec import DataSpec, StudySpec
from nas_optuna.training import ImageClassifier, make_network
from nas_optuna.training.raw_images import as_batch
from nas_optuna.training.serialization import make_header, save_network
from tests.data.odd_pictures import write_odd_pictures, write_png

CPU = torch.device("cpu")


def _folder(root: Path) -> Path:
    """Two classes in a training part, a test part beside them."""
    for place in ("train/a", "train/b", "test/a"):
        (root / place).mkdir(parents=True)
    return root


def _trained(images: ImageSet, path: Path, side: int = 12) -> ImageClassifier:
    spec = StudySpec.from_dict({"space": {"name": "conv", "depth": 1}, "recipe": {"input_size": side}})
    space = create_space("conv", {"depth": 1}, in_channels=images.channels, classes=2, input_size=side)
    architecture = space.sample(random.Random(0))
    network = make_network(space, architecture, spec.recipe, CPU, seed=0)
    save_network(path, network, make_header(architecture, spec, images))
    assert make_header(architecture, spec, images).pixels == images.pixel_format(side).to_dict()
    return load_network(path)


def _by_the_readme(folder: Path, pictures: list[Path]) -> list[dict[str, list[float]]]:
    """What the ONNX code of an export's README feeds and gets, picture by picture, without this package."""
    code = (folder / "README.md").read_text().split("## model.onnx")[1].split("```python\n")[1].split("```")[0]
    program = (
        f"import json\ncode = {code!r}\n"
        f"for file in {list(map(str, pictures))!r}:\n"
        "    names = {}\n"
        "    exec(code.replace('image.png', file), names)\n"
        "    print(json.dumps({'images': names['images'].tolist(), 'logits': names['logits'].tolist()}))\n"
    )
    environment = {"PATH": os.environ["PATH"]}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


@pytest.mark.process
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_four_readers_see_the_same_in_26_odd_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resize: str
) -> None:
    monkeypatch.setattr("nas_optuna.data.folder._THREADS", 1)
    root = _folder(tmp_path / "odd")
    pictures = write_odd_pictures(root / "train/a")
    Image.new("RGB", (20, 24), "red").save(root / "train/b/red.png")
    Image.new("RGB", (20, 24), "red").save(root / "test/a/red.png")
    images = load_images(DataSpec(name=f"folder:{root}", resize=resize), True, input_size=(10, 14))  # type: ignore[arg-type]
    assert len(pictures) == 26
    loaded, (inputs, _) = images.images[:26], next(BatchLoader(images, 27, 12, CPU).epoch())
    classifier = _trained(images, tmp_path / "network.safetensors")
    raw = as_batch(pictures, classifier.pixels)
    for file, ours, theirs in zip(pictures, loaded, raw, strict=True):
        assert torch.equal(ours, theirs), f"predict reads {file.name} as the loader does"
    assert torch.allclose(classifier.prepare(raw), inputs[:26], atol=1e-5)

    exported = export_network(classifier, tmp_path / "out", images.images, title="odd", facts={})
    assert not exported.left_out
    model = runpy.run_path(str(tmp_path / "out/model.py"))
    for file, ours, prepared in zip(pictures, loaded, inputs, strict=False):
        read = model["read_image"](file)
        assert torch.equal(read[0], ours), f"model.py reads {file.name} as the loader does"
        assert torch.allclose(model["prepare"](read)[0], prepared, atol=1e-5)
    logits = classifier(loaded).detach()
    for file, ours, expected, found in zip(
        pictures, loaded, logits, _by_the_readme(tmp_path / "out", pictures), strict=True
    ):
        assert found["images"] == [ours.tolist()], f"the README's steps read {file.name} as the loader does"
        assert found["logits"][0] == pytest.approx(expected.tolist(), abs=1e-4)


def test_twelve_bits_are_scaled_by_the_range_of_the_whole_set(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    for i, brightest in enumerate((300, 1000, 4000)):
        Image.fromarray(np.full((8, 8), brightest, np.uint16)).save(root / f"train/{'ab'[i % 2]}/{i}.png")
        Image.fromarray(np.full((8, 8), brightest // 4, np.uint16)).save(root / f"test/a/{i}.png")
    images = load_images(f"folder:{root}", True)
    assert sorted(images.images[:, 0, 0, 0].tolist()) == [19, 62, 249]
    assert images.whole_white == 4095
    network = _trained(images, tmp_path / "n.safetensors")
    assert as_batch(root / "test/a/0.png", network.pixels).max() == 5
    Image.fromarray(np.full((8, 8), 5000, np.uint16)).save(tmp_path / "brighter.png")
    with pytest.raises(DataError, match="values lie in 5000 … 5000, and 0 … 4095 is understood"):
        network.predict(tmp_path / "brighter.png")


@pytest.mark.parametrize(("bits", "refused"), [(8, True), (9, True), (12, True), (14, True), (16, False)])
def test_colours_whose_upper_bits_are_empty_are_refused_by_name(tmp_path: Path, bits: int, refused: bool) -> None:
    root = _folder(tmp_path)
    for part in ("train/a", "train/b", "test/a"):
        values = np.random.default_rng(0).integers(0, 2**bits, (8, 8 * 3), dtype=np.uint16).astype(">u2")
        write_png(root / part / "colour.png", values.view(np.uint8), 16, 2)
    if not refused:
        assert load_images(f"folder:{root}", True).images.max() > 200
        return
    with pytest.raises(DataError, match="3 pictures with 16-bit colours that use the lower bits only; convert them"):
        load_images(f"folder:{root}", True)


def test_colours_of_lab_become_grey_where_a_network_sees_grey(tmp_path: Path) -> None:
    grey = Image.new("RGB", (6, 6), (90, 90, 90))
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    file = tmp_path / "lab.tif"
    ImageCms.applyTransform(grey, to_lab).save(file)
    for channels in (1, 3):
        pixels = PixelFormat(channels, 6, 6, (0.0,) * channels, (1.0,) * channels, (6, 6))
        assert np.abs(picture_pixels(file, pixels).astype(int) - 90).max() <= 1


def test_fractions_are_scaled_by_the_convention_of_the_whole_set(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    for i, value in enumerate((0.25, 200.0)):
        for part in ("train/a", "train/b", "test/a"):
            Image.fromarray(np.full((8, 8), value, np.float32)).save(root / part / f"{i}.tif")
    images = load_images(f"folder:{root}", True)
    assert images.fraction_white == 255
    assert sorted(set(images.images.flatten().tolist())) == [0, 200]
    network = _trained(images, tmp_path / "n.safetensors")
    assert as_batch(root / "test/a/0.tif", network.pixels).max() == 0, "0.25 of 255"
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(DataError, match="values lie in nan … nan"):
        network.predict(tmp_path / "nan.tif")


@pytest.mark.parametrize("white", [1, 255])
def test_what_resizing_has_rounded_above_white_is_white(tmp_path: Path, white: int) -> None:
    values = np.random.default_rng(0).random((20, 8, 8), np.float32) * np.float32(white)
    values[0, 0, 0] = np.nextafter(np.float32(white), np.float32(2 * white))
    data = {"x_train": values, "y_train": [0, 1] * 10, "x_test": values.clip(0, white), "y_test": [0, 1] * 10}
    images = load_images(name_of(data, tmp_path), True)
    assert images.fraction_white == white
    assert np.array_equal(images.images[:, 0].numpy(), np.rint(values.clip(0, white) * (255 / white)))
    assert torch.equal(as_batch(values, images.pixel_format(8)), images.images)
    if white == 1:
        values[0, 0, 0] = 1.002
        assert load_images(name_of((values, [0, 1] * 10), tmp_path / "above"), True).fraction_white == 255


def _drawing(shade: int, path: Path) -> None:
    pixels = np.zeros((12, 12, 4), np.uint8)
    pixels[3:9, 5:7] = (shade, shade, shade, 255)
    Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("shades", "background", "says"),
    [
        ((0, 20, 30), 255, "3 pictures with transparency laid on white"),
        ((255, 250, 252), 0, "3 pictures with transparency laid on black, because white would hide more drawings"),
        ((255, 250, 0, 5), 128, "4 pictures with transparency laid on grey, because white would hide more drawings"),
        ((120, 128, 126), 255, "3 pictures with transparency laid on white"),
    ],
)
def test_transparency_is_laid_on_one_background(
    tmp_path: Path, shades: tuple[int, ...], background: int, says: str
) -> None:
    root = _folder(tmp_path)
    for i, shade in enumerate(shades):
        _drawing(shade, root / f"train/{'ab'[i % 2]}/{i}.png")
    _drawing(255, root / "test/a/x.png")
    images = load_images(f"folder:{root}", True)
    assert images.background == background
    assert set(images.images[:, 0, 0, 0].tolist()) == {background}
    assert says in images.notes
    assert load_images(f"folder:{root}", False).images[0, 0, 0, 0] == background, "as for training"
    network = _trained(images, tmp_path / "n.safetensors")
    assert as_batch(root / "test/a/x.png", network.pixels)[0, 0, 0, 0] == background


def test_the_description_survives_json_and_refuses_what_it_is_not() -> None:
    made = PixelFormat(3, 8, 9, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), (16, 17), "pad", 0, 4095, 255)
    assert PixelFormat.from_dict(json.loads(json.dumps(dataclasses.asdict(made)))) == made
    assert eval(repr(made), {"PixelFormat": PixelFormat}) == made
    for change in ({"height": 0}, {"resize": "turn"}, {"std": [1, 1, 0]}, {"more": 1}, {"mean": [float("nan")] * 3}):
        with pytest.raises(ValueError, match=r"."):
            PixelFormat.from_dict(dataclasses.asdict(made) | change)


def test_what_is_copied_beside_a_network_needs_numpy_and_pillow_alone() -> None:
    tree = ast.parse(Path(pixels_module.__file__).read_text())
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported <= sys.stdlib_module_names | {"numpy", "PIL"}


def test_pictures_are_read_by_the_pillow_of_a_machine_that_lacks_this_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before release 10.1 Pillow did not tell transparency itself."""
    files = write_odd_pictures(tmp_path)
    transparent = [file for file in files if Image.open(file).has_transparency_data]
    made = [Image.new(mode, (2, 2)) for mode in ("LA", "La", "PA", "RGBa", "P", "LAB", "I;16")]
    assert [is_transparent(each) for each in made] == [each.has_transparency_data for each in made]
    monkeypatch.delattr(Image.Image, "has_transparency_data")
    assert [file for file in files if is_transparent(Image.open(file))] == transparent
    pixels = PixelFormat(3, 8, 8, (0.0,) * 3, (1.0,) * 3, (8, 8))
    assert all(read_picture(file, pixels).shape == (3, 8, 8) for file in transparent)


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
def test_a_huge_picture_is_refused_or_decoded_reduced(tmp_path: Path, kind: str) -> None:
    from nas_optuna.data.pictures import inspect_picture, picture_pixels

    side = 8000 if kind != "webp" else 7500
    assert side * side > MAX_PIXELS
    file = tmp_path / f"huge.{kind}"
    picture = Image.new("L" if kind != "webp" else "RGB", (side, side), 77 if kind != "webp" else (77, 77, 77))
    picture.save(file, **({"lossless": True, "method": 0} if kind == "webp" else {}))
    pixels = PixelFormat(1, 8, 8, (0.0,), (1.0,), (8, 8))
    assert (inspect_picture(file).height, inspect_picture(file).width) == (side, side)
    if kind == "jpg":
        assert set(picture_pixels(file, pixels).flatten().tolist()) == {77}
        picture.save(file, progressive=True)
    with pytest.raises(DataError, match=f"{side}×{side} pixels, and 50,000,000 are the most; reduce it"):
        picture_pixels(file, pixels)


@pytest.mark.parametrize("from_file", [True, False])
def test_a_picture_that_is_given_keeps_its_size_and_gives_the_pixels_of_its_file(
    tmp_path: Path, from_file: bool
) -> None:
    values, exif = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8), Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "photo.jpg"
    Image.fromarray(values).resize((320, 240)).save(file, exif=exif)
    pixels = PixelFormat(3, 20, 16, (0.0,) * 3, (1.0,) * 3, (20, 16))
    with Image.open(file if from_file else io.BytesIO(file.read_bytes())) as picture:
        for _ in range(2):
            assert np.array_equal(picture_pixels(picture, pixels), picture_pixels(file, pixels))
        assert np.asarray(picture).shape == (240, 320, 3)
        assert picture_pixels(picture, pixels).shape == (3, 20, 16), "decoded in full, by its owner"
        with Image.open(file) as drafted:
            drafted.draft("L", (80, 60))
            assert np.ptp(picture_pixels(drafted, pixels), 0).max() == 0, "grey, as its owner wants it"


@pytest.mark.parametrize("kind", ["fractions", "fractions of 255", "12 bits", "16 bits", "tensors", "booleans"])
def test_a_network_takes_the_arrays_that_it_was_trained_on(kind: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    images: Any = {
        "fractions": values.astype(np.float32) / 255,
        "fractions of 255": values.astype(np.float16),
        "12 bits": values.astype(np.int64) * 16,
        "16 bits": values.astype(np.uint16) * 257,
        "tensors": torch.from_numpy(values).to(torch.bfloat16) / 256,
        "booleans": values > 127,
    }[kind]
    data = load_data(name_of((images, [0, 1] * 10), tmp_path)).train
    pixels = data.pixel_format(8)
    taken = {bytes(image) for image in as_batch(images, pixels).numpy()}
    assert taken >= {bytes(image) for image in data.images.numpy()}
    assert PixelFormat.from_dict(json.loads(json.dumps(pixels.to_dict()))) == pixels
    if kind == "16 bits":
        assert as_batch(images[:1] // 65, pixels).max() == 4, "a dark one"
    with pytest.raises(DataError, match="this network takes"):
        as_batch(np.full((1, 3, 8, 8), -0.5), pixels)


def test_whole_numbers_of_unknown_depth_are_refused() -> None:
    pixels = PixelFormat(1, 8, 8, (0.5,), (0.5,), (8, 8))
    assert "whole_white_found" not in pixels.to_dict(), "files are as those of earlier releases"
    for dtype in (np.int64, np.uint16):
        with pytest.raises(DataError, match=f"images are {np.dtype(dtype)}; this network takes raw pixels"):
            as_batch(np.full((2, 1, 8, 8), 9, dtype), pixels)
