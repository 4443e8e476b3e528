import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save, save_file

import nas_optuna as nas
from nas_optuna import load_network
from nas_optuna.data import BatchLoader, load_images
from nas_optuna.errors import DataError
from nas_optuna.spaces.built import of_network
from nas_optuna.spaces.conv import ConvSpace
from nas_optuna.spec import StudySpec
from nas_optuna.training import ImageClassifier, make_header, make_network, save_network
from tests.training.user_space import UserSpace

CPU = torch.device("cpu")
SPEC = StudySpec.from_dict({"space": {"name": "conv", "depth": 2}, "recipe": {"input_size": 16}})
SPACE = ConvSpace(depth=2, input_size=16)
ARCHITECTURE = SPACE.parse("f16k3s1-f24k5s2")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    digits = load_images("digits", True).subset(range(40))
    network = make_network(SPACE, ARCHITECTURE, SPEC.recipe, CPU, seed=1)
    path = tmp_path_factory.mktemp("saved") / "n.safetensors"
    save_network(path, network, make_header(ARCHITECTURE, SPEC, digits))
    return path


@pytest.fixture
def network(file: Path) -> ImageClassifier:
    return load_network(file)


def test_a_saved_network_says_the_same_of_raw_images(network: ImageClassifier) -> None:
    digits = load_images("digits", True).subset(range(40))
    built = make_network(SPACE, ARCHITECTURE, SPEC.recipe, CPU, seed=1).eval()
    (batch, _), *_ = BatchLoader(load_images("digits", True).subset(range(40)), 40, 16, CPU).epoch()
    with torch.no_grad():
        assert torch.allclose(network(digits.images), built(batch), atol=1e-5)
        names = [digits.classes[i] for i in built(batch).argmax(1).tolist()]
    assert network.predict(digits.images) == names
    assert network.architecture == ARCHITECTURE
    assert torch.allclose(network.probabilities(digits.images).sum(1), torch.ones(40))


def test_predict_takes_arrays_tensors_pictures_and_single_images(network: ImageClassifier, tmp_path: Path) -> None:
    images = load_images("digits", True).images[:5]
    names = network.predict(images)
    array = images.numpy()
    assert network.predict(array) == names
    assert network.predict(array[:, 0]) == names
    assert network.predict(array.transpose(0, 2, 3, 1)) == names  # not contiguous, channels last
    pictures = [Image.fromarray(image[0]) for image in array]
    assert network.predict(pictures) == names
    pictures[0].save(tmp_path / "a.png")
    pictures[0].resize((64, 64), Image.Resampling.NEAREST).convert("RGBA").save(tmp_path / "large.png")
    assert network.predict(images / 255) == network.predict(array.astype(np.float64) / 255) == names
    singles: list[Any] = [images[0], images[0, 0], array[0], array[0, 0], array[0, 0, ..., None], pictures[0]]
    for one in [*singles, tmp_path / "a.png", str(tmp_path / "a.png")]:
        assert network.predict(one) == names[:1]
    assert network.predict([images[0], array[1], pictures[2]]) == names[:3]
    assert len(network.predict(tmp_path / "large.png")) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        torch.rand(2, 1, 8, 8) * 255,
        np.random.default_rng(0).random((2, 1, 8, 8)) - 0.5,
        np.full((2, 1, 8, 8), np.nan),
        torch.zeros(2, 1, 8, 8, dtype=torch.int64),
        np.zeros((2, 1, 8, 8), np.uint16),
        np.full((2, 1, 8, 8), "a"),
        torch.zeros(2, 1, 9, 8, dtype=torch.uint8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(0, 1, 8, 8, dtype=torch.uint8),
        torch.zeros(8, dtype=torch.uint8),
        torch.zeros((), dtype=torch.uint8),
        torch.zeros(1, 1, 1, 8, 8, dtype=torch.uint8),
        [],
        [[0, 1], [2, 3]],
        torch.zeros(1, 1, 8, 8).to_sparse(),
        torch.zeros(1, 1, 8, 8, device="meta"),
        None,
        7,
    ],
)
def test_other_images_are_refused_with_what_is_expected(network: ImageClassifier, wrong: Any) -> None:
    with pytest.raises(DataError, match="uint8 of 0 … 255") as caught:
        network.predict(wrong)
    assert "\n" not in str(caught.value)
    if isinstance(wrong, torch.Tensor):
        with pytest.raises(DataError):
            network(wrong)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "it is a folder; give the pictures in it"),
        (b"", "it is empty; delete it"),
        (b"<html>", "convert it to PNG or JPEG, or delete it"),
    ],
)
def test_what_is_no_picture_file_is_told_in_one_line(
    network: ImageClassifier, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "holiday"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        network.predict(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).endswith(said)


def test_a_damaged_picture_is_refused(network: ImageClassifier, tmp_path: Path) -> None:
    whole = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:300])
    with pytest.raises(DataError):
        network.predict(cut)
    with pytest.raises(DataError):
        network.predict(Image.open(cut))


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("shape", [(3, 8, 12), (1, 20, 20), (1, 5, 5)])
def test_it_can_be_exported_and_traced_for_any_batch_size(tmp_path: Path, resize: str, shape: tuple[int, ...]) -> None:
    from dataclasses import replace

    digits = load_images("digits", True)
    images = torch.randint(0, 256, (6, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    few = replace(digits.subset(range(6)), images=images, mean=(), std=(), resize=resize)
    space = ConvSpace(depth=2, input_size=16, in_channels=shape[0])
    built = make_network(space, ARCHITECTURE, SPEC.recipe, CPU, seed=1).eval()
    save_network(tmp_path / "n.safetensors", built, make_header(ARCHITECTURE, SPEC, few))
    loaded = load_network(tmp_path / "n.safetensors")
    (batch, _), *_ = BatchLoader(few, 6, 16, CPU).epoch()
    expected = built(batch).detach()
    assert torch.allclose(loaded(images), expected, atol=1e-5)
    exported = torch.export.export(loaded, (images[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
    traced = torch.jit.trace(loaded, (images[:2],))
    for count in (1, 2, 5):
        assert torch.allclose(exported(images[:count]), expected[:count], atol=1e-5)
        assert torch.allclose(traced(images[:count]), expected[:count], atol=1e-5)


def test_a_space_of_ones_own_is_given_and_never_imported(tmp_path: Path) -> None:
    name = "tests.training.user_space:UserSpace"
    spec = StudySpec.from_dict({"space": {"name": name}, "recipe": {"input_size": 8}})
    space = UserSpace()
    architecture = space.parse("norm")
    digits = load_images("digits", True).subset(range(4))
    path = tmp_path / "n.safetensors"
    save_network(
        path, make_network(space, architecture, spec.recipe, CPU, seed=0), make_header(architecture, spec, digits)
    )
    with pytest.raises(DataError, match=r"neither built in nor installed.*load_network\(file, space=\.\.\.\)"):
        load_network(path)
    for given in (space, UserSpace, lambda in_channels, **more: UserSpace(in_channels=in_channels, **more)):
        assert len(load_network(path, space=given).predict(digits.images)) == 4
    with pytest.raises(DataError, match="it is for 1 channel, 10 classes and input size 8"):
        load_network(path, space=UserSpace(classes=3))


class Alone(torch.nn.Sequential):
    def __init__(self, task: Any) -> None:
        super().__init__(torch.nn.Flatten(), torch.nn.LazyLinear(task.classes))


def two_widths(c: Any, task: Any, most: int = 2) -> torch.nn.Module:
    width = c.choice("width", list(range(1, most + 1)))
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(width), torch.nn.Linear(width, task.classes))


def alone(task: Any) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(task.classes))


@pytest.mark.parametrize(("make", "text", "options"), [(two_widths, "width=3", {"most": 4}), (alone, "fixed", {})])
def test_a_function_of_ones_own_is_given_as_it_was_searched(
    make: Any, text: str, options: dict[str, int], tmp_path: Path
) -> None:
    """The function of a space, and the function of a network that was the reference of a fit."""
    name = f"/{'/'.join(['a long folder'] * 40)}/my_net.py:net"
    spec = StudySpec.from_dict({"space": {"name": name, **options}, "recipe": {"input_size": 8}})
    function = of_network(make, "alone") if make is alone else nas.space(make)
    space = function(in_channels=1, classes=10, input_size=8, **options)
    architecture, digits = space.parse(text), load_images("digits", True).subset(range(4))
    network, path = make_network(space, architecture, spec.recipe, CPU, seed=0), tmp_path / "n.safetensors"
    save_network(path, network, make_header(architecture, spec, digits))
    for given in (alone, Alone) if make is alone else (function,):
        found = load_network(path, space=given).predict(digits.images)
        assert found == load_network(path, space=space).predict(digits.images)
    with pytest.raises(
        DataError, match=r"n\.safetensors': its space '/a long.*my_net\.py:net' is neither built in nor"
    ):
        load_network(path)


@pytest.mark.process
def test_naming_code_executes_nothing(file: Path, tmp_path: Path) -> None:
    (tmp_path / "hostile.py").write_text("open('executed', 'w')\ndef make(**options): open('executed', 'w')\n")
    (tmp_path / "hubconf.py").write_text("open('executed', 'w')\ndef make(**options): open('executed', 'w')\n")
    hub = {"repo_or_dir": str(tmp_path), "model": "make", "source": "local", "trust_repo": True}
    named = {
        "hostile:make": {},
        f"{tmp_path}/hostile.py:make": {},
        "torch.hub:load": hub,
        "os:system": {"command": ":"},
    }
    for number, (space, options) in enumerate(named.items()):
        _rewritten(file, tmp_path / f"{number}.safetensors", space=space, space_options=options)
    program = (
        "import sys, nas_optuna\n"
        "for number in range(4):\n"
        "    try: nas_optuna.load_network(f'{number}.safetensors')\n"
        "    except nas_optuna.NasOptunaError as error: print(error)\n"
        "assert 'hostile' not in sys.modules and '' not in sys.path[1:]\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("neither built in nor installed") == 4
    assert not (tmp_path / "executed").exists()


def _rewritten(source: Path, target: Path, metadata: str | None = None, **changes: Any) -> Path:
    """A copy whose header says something else."""
    data = source.read_bytes()
    length = int.from_bytes(data[:8], "little")
    outer = json.loads(data[8 : 8 + length])
    header = json.loads(outer["__metadata__"]["nas_optuna"])
    for key, value in changes.items():
        if value is DROPPED:
            del header[key]
        elif key == "pixels" and isinstance(value, dict):
            header[key] = {k: v for k, v in (header[key] | value).items() if v is not DROPPED}
        else:
            header[key] = value
    outer["__metadata__"]["nas_optuna"] = json.dumps(header) if metadata is None else metadata
    text = json.dumps(outer).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return target


DROPPED = object()
NESTED: Any = 1
for _ in range(500):
    NESTED = [NESTED]

HEADERS: dict[str, dict[str, Any]] = {
    "depth": {"space_options": {"depth": 10**7}},
    "many stages": {"space": "macro", "space_options": {"stages": 10**9}},
    "many slots": {"space": "macro", "space_options": {"depths": [10**8]}},
    "many branches": {"space": "macro", "space_options": {"branches": [10**9]}},
    "many blocks": {"space": "block", "space_options": {"depth": 10**9}},
    "many filters": {"space_options": {"depth": 2, "filters": [10**9]}, "architecture": f"f{10**9}k3s1-f{10**9}k3s1"},
    "wide": {"space": "residual", "space_options": {"width": 10**9}},
    "many choices": {"space_options": {"depth": 1000, "filters": list(range(1, 10**6))}},
    "huge integer": {"space_options": {"depth": 10**300}},
    "nested options": {"space_options": {"filters": NESTED}},
    "unknown option": {"space_options": {"depht": 2}},
    "options no table": {"space_options": [1]},
    "reserved option": {"space_options": {"classes": 10**9}},
    "negative": {"space_options": {"depth": -1}},
    "text for a number": {"space_options": {"depth": "2"}},
    "no architecture": {"architecture": DROPPED},
    "other architecture": {"architecture": "f48k7s1-f48k7s1"},
    "long architecture": {"architecture": "f16k3s1-" * 10**6},
    "architecture a number": {"architecture": 7},
    "format 99": {"format": 99},
    "format 0": {"format": 0},
    "format text": {"format": "1"},
    "unknown key": {"more": 1},
    "space a list": {"space": ["conv"]},
    "space empty": {"space": ""},
    "space long": {"space": "x" * 10**6},
    "one class": {"classes": ["a"]},
    "classes numbers": {"classes": list(range(10))},
    "million classes": {"classes": ["c"] * 10**6},
    "flat pixels": {"image_shape": [1, 8, 8]},
    "pixels a list": {"pixels": [1, 8, 8]},
    "no height": {"pixels": {"height": DROPPED}},
    "more of pixels": {"pixels": {"more": 1}},
    "height zero": {"pixels": {"height": 0}},
    "height negative": {"pixels": {"height": -8}},
    "height huge": {"pixels": {"height": 10**9, "width": 10**9}},
    "height a fraction": {"pixels": {"height": 8.5}},
    "height text": {"pixels": {"height": "8"}},
    "input huge": {"pixels": {"input_size": [10**9, 10**9]}},
    "input nothing": {"pixels": {"input_size": []}},
    "input three": {"pixels": {"input_size": [1, 2, 3]}},
    "input true": {"pixels": {"input_size": [True, 16]}},
    "input a number": {"pixels": {"input_size": 16}},
    "mean of three": {"pixels": {"mean": [0.1, 0.2, 0.3]}},
    "mean text": {"pixels": {"mean": "1"}},
    "std zero": {"pixels": {"std": [0.0]}},
    "std text": {"pixels": {"std": ["1"]}},
    "resize": {"pixels": {"resize": "turn"}},
    "resize a list": {"pixels": {"resize": ["pad"]}},
    "background": {"pixels": {"background": 256}},
    "background text": {"pixels": {"background": "white"}},
    "white": {"pixels": {"whole_white": 7}},
    "white of fractions": {"pixels": {"fraction_white": 2}},
    "origin text": {"origin": "mine"},
    "origin of a better network": {"origin": {"study": "nas", "test_accuracy": 2.0}},
    "format 1 without a shape": {"format": 1, "pixels": DROPPED},
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_header_gets_one_line_within_a_second(file: Path, tmp_path: Path, kind: str) -> None:
    _require_refused(_rewritten(file, tmp_path / "x.safetensors", **HEADERS[kind]))


def test_a_built_in_network_without_an_outline_is_built_nowhere(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(space: ConvSpace, architecture: object) -> None:
        raise RuntimeError(f"too many numbers for {torch.get_default_device().type}")

    monkeypatch.setattr(ConvSpace, "build", build)
    with pytest.raises(DataError, match="too many numbers for meta"):
        load_network(file)


@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "{", "NaN", '{"format": NaN}', "[" * 10**6, '{"a":' * 10**5, "1" * 5000, "\ud800", " " * 10**7],
    ids=lambda text: f"{text[:6]!r}",
)
def test_a_header_that_is_none_gets_one_line_within_a_second(file: Path, tmp_path: Path, text: str) -> None:
    _require_refused(_rewritten(file, tmp_path / "x.safetensors", metadata=text))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "seven bytes": lambda data: data[:7],
    "pickle": lambda data: b"\x80\x04 not weights",
    "half": lambda data: data[: len(data) // 2],
    "header only": lambda data: data[: 8 + int.from_bytes(data[:8], "little")],
    "longer": lambda data: data + b"\0" * 8,
    "header of 2^63": lambda data: struct.pack("<Q", 2**63) + data[8:],
    "header of 100 MB": lambda data: struct.pack("<Q", 10**8) + data[8:],
    "zeros": lambda data: b"\0" * len(data),
    "no metadata": lambda data: save({"w": torch.zeros(2)}),
    "not finite": lambda data: data[:-4] + struct.pack("<f", float("nan")),
    "a flipped name": lambda data: data.replace(b"0.conv.weight", b"0.conv.weighs"),
    "another type": lambda data: data.replace(b'"F32"', b'"I32"'),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_gets_one_line_within_a_second(file: Path, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(DAMAGE[kind](file.read_bytes()))
    _require_refused(path)


def test_what_is_no_file_gets_one_line_within_a_second(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    save_file({"w": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    nowhere = ["pipe", ".", "absent", "foreign.safetensors", "a\nb", "x" * 5000]
    for path in [*(tmp_path / name for name in nowhere), Path("/dev/zero"), "nul\0byte", ""]:
        _require_refused(path)


def test_a_folder_is_called_one_and_the_network_in_it_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\(it is a folder; give the file in it\)$"):
        load_network(tmp_path)
    for folder in ("network", "."):  # of a fit, and of an export
        inside = tmp_path / folder / "model.safetensors"
        inside.parent.mkdir(exist_ok=True)
        inside.write_bytes(file.read_bytes())
        with pytest.raises(DataError, match=rf"it is a folder; give {re.escape(str(inside))}"):
            load_network(tmp_path)


def _require_refused(path: Path | str) -> None:
    started = time.process_time()
    with pytest.raises(DataError, match="is not a network that nas-optuna retrain wrote") as caught:
        load_network(path)
    assert time.process_time() - started < 1
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
