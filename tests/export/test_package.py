"""Every exported file is used as a stranger would use it: without this package."""

import builtins
import io
import json
import os
import random
import re
import runpy
import subprocess
import sys
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from nas_optuna import load_network
from nas_optuna.data import ImageSet, load_images
from nas_optuna.errors import DataError
from nas_optuna.export import Exported, NotWritable, export_network, package, write_source
from nas_optuna.export.package import MARK
from nas_optuna.export.source import constructor
from nas_optuna.files import scratch_folder
from nas_optuna.spaces import create_space
from nas_optuna.spec import StudySpec
from nas_optuna.training import ImageClassifier, make_network
from nas_optuna.training.serialization import make_header
from tests.training.user_space import UserSpace

CPU = torch.device("cpu")
EXAMPLES = Path(__file__).parents[2] / "examples"
ALL = ("model.safetensors", "model.py", "model.pt2", "model.onnx", "picture.py", "README.md")


def _images(shape: tuple[int, int, int] = (1, 8, 8), resize: str = "stretch") -> ImageSet:
    digits = load_images("digits", True).subset(range(100))
    if shape == (1, 8, 8):
        return digits
    pixels = torch.randint(0, 256, (100, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return replace(digits, images=pixels, mean=(), std=(), resize=resize)


def _classifier(name: str, images: ImageSet, side: int = 16, **options: Any) -> ImageClassifier:
    spec = StudySpec.from_dict({"space": {"name": name, **options}, "recipe": {"input_size": side}})
    space = create_space(name, options, in_channels=images.channels, classes=10, input_size=side)
    architecture = space.sample(random.Random(3))
    network = make_network(space, architecture, spec.recipe, CPU, seed=0)
    return ImageClassifier(network, architecture, make_header(architecture, spec, images)).eval()


def _export(classifier: ImageClassifier, folder: Path, images: ImageSet) -> Exported:
    return export_network(classifier, folder, images.images, title='A "title" \\ of *mine*', facts={"accuracy": "0.9"})


def _alone(folder: Path, *words: str, without: str = "nas_optuna", code: int = 0) -> str:
    """Run a script of a folder in a process in which some modules cannot be imported; what it says."""
    blocked = folder.parent / "blocked"
    blocked.mkdir(exist_ok=True)
    (blocked / "sitecustomize.py").write_text(
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {without.split()!r}:\n"
        "            raise ModuleNotFoundError(name, name=name.partition('.')[0])\n"
        "sys.meta_path.insert(0, Refuse())\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(blocked)}
    run = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == code, run.stderr
    return run.stderr if code == 1 else run.stdout


def _run(folder: Path, *words: object, code: object = 0) -> str:
    """Run ``model.py`` as a script in this process, and return what it prints, or the line that it ends with."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["model.py", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path("model.py", run_name="__main__")
    if isinstance(ended.value.code, str):
        assert code == 1
        return out.getvalue() + ended.value.code
    assert ended.value.code == code
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "options", "shape", "resize"),
    [
        ("conv", {"depth": 2}, (1, 8, 8), "stretch"),
        ("conv", {"depth": 2}, (3, 20, 30), "crop"),
        ("block", {"depth": 2}, (3, 12, 8), "pad"),
        ("macro", {"stages": 2}, (3, 24, 24), "stretch"),
        ("macro", {"stages": 1, "norm": "group", "head": "hidden"}, (1, 8, 8), "stretch"),
    ],
)
def test_all_forms_agree(
    tmp_path: Path, name: str, options: dict[str, Any], shape: tuple[int, int, int], resize: str
) -> None:
    images = _images(shape, resize)
    classifier = _classifier(name, images, **options)
    exported = _export(classifier, tmp_path / "out", images)
    assert (exported.files, exported.left_out, exported.images) == (ALL, {}, 100)
    assert exported.difference < 1e-4
    logits = classifier(images.images).detach()
    session = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx"))
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(images.classes)
    program = torch.export.load(tmp_path / "out/model.pt2").module()
    for count in (1, 7):
        some = images.images[:count]
        (found,) = session.run(None, {"images": some.numpy()})
        assert np.abs(found - logits[:count].numpy()).max() < 1e-4
        assert torch.allclose(program(some), logits[:count], atol=1e-4)
    assert load_network(tmp_path / "out/model.safetensors").predict(images.images) == classifier.predict(images.images)
    pixels = images.images[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels[..., 0] if shape[0] == 1 else pixels).save(tmp_path / "image.png")
    said = _run(tmp_path / "out", tmp_path / "image.png")
    assert said.startswith(f"{tmp_path}/image.png: {classifier.predict(images.images[0])[0]} (")
    assert "nas_optuna" not in (tmp_path / "out/model.py").read_text()


@pytest.mark.process
def test_model_py_needs_torch_alone_and_says_what_pictures_need(tmp_path: Path) -> None:
    images = _images((3, 20, 30), "crop")
    classifier = _classifier("conv", images, depth=2)
    _export(classifier, tmp_path / "out", images)
    Image.fromarray(images.images[0].permute(1, 2, 0).numpy()).save(tmp_path / "image.png")
    program = (
        "import json, torch, model\n"
        f"images = torch.arange({2 * 3 * 20 * 30}).remainder(251).to(torch.uint8).view(2, 3, 20, 30)\n"
        "print(json.dumps([round(value, 4) for value in model.load()(images).flatten().tolist()]))"
    )
    missing = "nas_optuna PIL safetensors numpy torchvision"
    said = json.loads(_alone(tmp_path / "out", "-c", program, without=missing))
    expected = classifier(torch.arange(3600).remainder(251).to(torch.uint8).view(2, 3, 20, 30)).flatten()
    assert said == pytest.approx(expected.tolist(), abs=1e-3)
    refused = _alone(tmp_path / "out", "model.py", "../image.png", without="PIL", code=1)
    assert refused.splitlines()[-1] == "to read pictures, PIL is needed: pip install pillow numpy"


def test_model_py_answers_bad_calls_with_one_line(tmp_path: Path) -> None:
    images = _images()
    _export(_classifier("conv", images, depth=1), tmp_path / "out", images)
    out = tmp_path / "out"
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n not one")
    assert _run(out, "--help").startswith("usage: python model.py")
    assert _run(out, code=2).startswith("usage: python model.py")
    assert _run(out, "--help").isascii(), "any terminal can show it"
    for name in ("absent.png", "../damaged.png", "..", "/dev/zero"):
        said = _run(out, name, code=1)
        assert said.startswith(f"{name} cannot be read: ")
        assert "\n" not in said
    Image.fromarray(images.images[0, 0].numpy()).save(tmp_path / "image.png")
    said = _run(out, "absent.png", "../image.png", "/", code=1)
    assert [line.partition(" ")[0] for line in said.splitlines()] == ["../image.png:", "absent.png", "/"]
    (out / "model.safetensors").rename(out / "elsewhere")
    assert _run(out, "x.png", code=1).startswith("model.safetensors beside this file cannot be read: ")


@pytest.mark.process
def test_the_code_in_the_readme_runs(tmp_path: Path) -> None:
    images = _images()
    _export(_classifier("conv", images, depth=1), tmp_path / "out", images)
    text = (tmp_path / "out/README.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) == 3
    strangers = [block for block in blocks if "import nas_optuna" not in block]
    assert len(strangers) == 2
    Image.fromarray(images.images[0, 0].numpy()).save(tmp_path / "out/image.png")
    said = _alone(tmp_path / "out", "-c", f"for block in {strangers!r}: exec(block, {{'__name__': '__main__'}})")
    assert len(said.splitlines()) == 2
    assert set(said.splitlines()) <= set(images.classes)


class Odd(nn.Module):
    """Parameters of its own, functions, methods, slices and an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, 4, 1, 1), 2.0))
        self.register_buffer("shift", torch.ones(()))
        for dtype in (torch.int8, torch.int16, torch.complex64):
            self.register_buffer(f"unused_{dtype}".replace(".", "_"), torch.ones(2, dtype=dtype))
        self.conv = nn.Conv2d(1, 4, (3, 1), padding="same", padding_mode="reflect", bias=False)
        self.norm = nn.LayerNorm([16, 16], elementwise_affine=False)
        self.end = nn.Sequential(nn.Dropout(0.3), nn.LazyLinear(10))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(torch.sigmoid(self.conv(x)) * self.scale + self.shift)
        y = torch.nn.functional.avg_pool2d(y, 2, ceil_mode=True)[..., 1:, :].mean(dim=(2,))
        y = y.view(y.size(0), -1) - 0.5
        return self.end(torch.nn.functional.dropout(y, 0.2, training=self.training))


class Recurrent(nn.Module):
    """The rows of a picture, one after another."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer
        self.end = nn.Linear(layer.hidden_size * (2 if layer.bidirectional else 1), 10)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.layer(x[:, 0])
        return self.end(states[:, -1])


class ValueDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(1)[:, :10]
        return pixels if pixels.sum() > 1e9 else pixels * 2


def _of_user(network: nn.Module, images: ImageSet) -> ImageClassifier:
    space = UserSpace(input_size=16)
    spec = StudySpec.from_dict({"space": {"name": space.name}, "recipe": {"input_size": 16}})
    architecture = space.parse("plain")
    return ImageClassifier(network.eval(), architecture, make_header(architecture, spec, images)).eval()


def test_a_users_network_is_written_out(tmp_path: Path) -> None:
    images = _images()
    odd = Odd().eval()
    odd(torch.zeros(1, 1, 16, 16))
    classifier = _of_user(odd, images)
    exported = _export(classifier, tmp_path / "out", images)
    assert "model.py" in exported.files, exported.left_out
    Image.fromarray(images.images[3, 0].numpy()).save(tmp_path / "image.png")
    assert classifier.predict(images.images[3])[0] in _run(tmp_path / "out", tmp_path / "image.png")


@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(16, 6, batch_first=True),
        nn.GRU(16, 5, num_layers=2, bias=False, batch_first=True, bidirectional=True),
        nn.RNN(16, 4, batch_first=True, nonlinearity="relu"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_recurrent_network_is_written_out(layer: nn.RNNBase, tmp_path: Path) -> None:
    images = _images()
    exported = _export(_of_user(Recurrent(layer), images), tmp_path / "out", images)
    assert "model.py" in exported.files, exported.left_out


def test_a_layer_that_does_not_tell_how_it_was_made_costs_one_form_alone(tmp_path: Path) -> None:
    images = _images()
    changed = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    changed[1].in_features = "many"  # type: ignore[assignment] # a class of the user's may keep anything there
    exported = _export(_of_user(changed, images), tmp_path / "out", images)
    assert "Linear does not tell how it was made" in exported.left_out["model.py"]
    assert "model.safetensors" in exported.files


def test_a_function_space_is_exported_in_all_forms_and_the_readme_asks_for_it(tmp_path: Path) -> None:
    images = _images()
    classifier = _classifier(f"{EXAMPLES}/my_space.py:network", images)
    exported = _export(classifier, tmp_path / "out", images)
    assert (exported.files, exported.left_out) == (ALL, {})
    Image.fromarray(images.images[3, 0].numpy()).save(tmp_path / "image.png")
    assert classifier.predict(images.images[3])[0] in _alone(tmp_path / "out", "model.py", "../image.png")
    assert 'load_network("model.safetensors", space=network)' in (tmp_path / "out/README.md").read_text()


def test_what_cannot_be_made_is_left_out_with_the_reason(tmp_path: Path) -> None:
    images = _images()
    exported = _export(_of_user(ValueDependent(), images), tmp_path / "out", images)
    assert "cannot be traced" in exported.left_out["model.py"]
    assert "model.pt2" in exported.left_out
    assert "model.safetensors" in exported.files
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted((MARK, *exported.files))
    for reason in exported.left_out.values():
        assert "\n" not in reason
        assert len(reason) < 300
    assert "`model.py` was not written" in (tmp_path / "out/README.md").read_text()


class Dropping(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.dropout(super().forward(x.flatten(1)))


class Attending(nn.Module):
    """Its pictures attend to one another, since the batch comes second."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.end = nn.TransformerEncoderLayer(16, 2, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.layer(x[:, 0]).mean(1))


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (Dropping(256, 10), "depend on the other images or on chance"),
        (Attending(), "depend on the other images or on chance"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(256, 10), nn.BatchNorm1d(10, track_running_stats=False)),
            "depend on the other images or on chance",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(256, 10), nn.Threshold(1e9, float("nan"))), "are not finite numbers"),
    ],
    ids=["chance", "attention", "normalisation", "nan"],
)
def test_of_a_network_whose_logits_are_not_certain_the_weights_are_written(
    network: nn.Module, why: str, tmp_path: Path
) -> None:
    classifier = _of_user(network, _images())
    exported = _export(classifier, tmp_path / "out", _images())
    assert exported.files == ("model.safetensors", "picture.py", "README.md")
    assert (exported.images, exported.difference) == (0, 0.0)
    assert len(exported.omissions) == 1
    assert exported.omissions[0].startswith("model.py, model.pt2, model.onnx were not written: the network's logits ")
    assert why in exported.omissions[0]
    readme = (tmp_path / "out/README.md").read_text()
    assert "`model.py`, `model.pt2`, `model.onnx` were not written" in readme
    assert "same logits" not in readme
    assert "`model.py` reads" not in readme
    network.load_state_dict(load_file(tmp_path / "out/model.safetensors"))


def test_what_fails_is_told_as_the_reason_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without torch's traceback, the exporter's graph, or what ONNX Runtime logs."""

    class Untold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.end = nn.utils.parametrizations.spectral_norm(nn.Linear(256, 10))

        def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
            return self.end(x.flatten(1) if more is None else x * more)

    class Counted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.cat([x.flatten(1), self.weight[:1].expand(len(x), 256)], 1)[:, :256])

    for network in (Untold(), Counted(256, 10)):
        exported = _export(_of_user(network, _images()), tmp_path / type(network).__name__, _images())
        assert {"model.py", "model.onnx"} <= exported.left_out.keys()
    assert capfd.readouterr() == ("", "")


def test_a_network_of_images_that_are_no_pictures_says_what_it_takes(tmp_path: Path) -> None:
    images = _images((4, 8, 8))
    classifier = _classifier("conv", images, depth=1)
    exported = _export(classifier, tmp_path / "out", images)
    assert exported.files == tuple(name for name in ALL if name != "picture.py")
    assert _run(tmp_path / "out", "a.png", code=1) == (
        "this network takes no pictures, but uint8 [n, 4, 8, 8]: model.load()(images)"
    )
    for name in ("README.md", "model.py"):
        head = (tmp_path / "out" / name).read_text().partition("class Network")[0]
        assert "png" not in head
        assert "Pillow" not in head
    with pytest.raises(DataError, match=r"as \[n, 4, 8, 8\] \(it scales them itself\)$"):
        classifier.predict("a.png")


def test_without_onnx_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("onnx"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    images = _images()
    exported = _export(_classifier("conv", images, depth=1), tmp_path / "out", images)
    assert exported.left_out == {"model.onnx": "it needs two more packages: pip install 'nas-optuna[onnx]'"}
    assert exported.files == ("model.safetensors", "model.py", "model.pt2", "picture.py", "README.md")


def test_an_export_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    images = _images()
    classifier = _classifier("conv", images, depth=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place, says in (("full", "did not write"), ("file", "is a file"), ("file/below", "cannot write to")):
        with pytest.raises(DataError, match=says):
            _export(classifier, tmp_path / place, images)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    _export(classifier, tmp_path / "out", images)
    before = (tmp_path / "out/model.py").read_text()
    _export(_classifier("block", images, depth=1), tmp_path / "out", images)
    assert (tmp_path / "out/model.py").read_text() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "out"]


def _replace(folder: Path, *names: str) -> None:
    """Publish files of these names as the next export of a folder does."""
    place = folder.with_name("place")
    place.mkdir(exist_ok=True)
    for name in names:
        (place / name).write_text("ours")
    package._publish(place, folder, list(names), package.files_of_ours(folder))


def test_a_file_that_takes_the_name_of_a_removed_one_is_not_ours(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _replace(out, "model.py", "model.int8.onnx")
    _replace(out, "model.py")
    (out / "model.int8.onnx").write_text("mine")
    _replace(out, "model.py")
    with pytest.raises(DataError, match=r"model\.int8\.onnx was not written by nas-optuna export"):
        _replace(out, "model.py", "model.int8.onnx")
    assert (out / "model.int8.onnx").read_text() == "mine"


def test_a_folder_that_is_there_is_written_to_although_the_one_above_may_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, where ``/out`` is a mount."""
    used: list[Path] = []

    def scratch(parent: Path) -> AbstractContextManager[Path]:
        used.append(parent)
        return scratch_folder(parent)

    monkeypatch.setattr(package, "scratch_folder", scratch)
    monkeypatch.setattr(type(package.FORMATS), "names", lambda self: ["model.safetensors"])
    images, out = _images(), tmp_path / "out"
    (out / ".nas-optuna-host-killed").mkdir(parents=True)
    exported = _export(_classifier("conv", images, depth=1), out, images)
    assert used == [out]
    assert {path.name for path in out.iterdir()} == {MARK, ".nas-optuna-host-killed", *exported.files}


def test_a_hostile_class_name_stays_text(tmp_path: Path) -> None:
    names = ('"""', "');open('executed','w')#", "{x}", "\\", "a\nb", "ü", "[red]", "|", "`🐈", "é")
    images = replace(_images(), classes=names)
    exported = _export(_classifier("conv", images, depth=1), tmp_path / "out", images)
    assert exported.left_out == {}
    Image.fromarray(images.images[0, 0].numpy()).save(tmp_path / "image.png")
    _run(tmp_path / "out", tmp_path / "image.png")
    assert not (tmp_path / "out/executed").exists()
    obeyed = replace(images, classes=tuple(f"\x1b]0;{i}\x07\u202e" for i in range(10)))
    _export(_classifier("conv", obeyed, depth=1), tmp_path / "terminal", obeyed)
    said = _run(tmp_path / "terminal", tmp_path / "image.png")
    assert "\x1b" not in said + (tmp_path / "terminal/README.md").read_text()
    assert tuple(runpy.run_path(str(tmp_path / "out/model.py"))["CLASSES"]) == names
    row = next(line for line in (tmp_path / "out/README.md").read_text().splitlines() if line.startswith("| classes"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3, "no class ends a cell of the table"


def test_layers_are_written_as_people_write_them() -> None:
    for text in (
        "nn.Conv2d(1, 8, 3)",
        "nn.Conv2d(1, 8, (3, 5), padding='same', bias=False)",
        "nn.BatchNorm1d(4, affine=False)",
        "nn.GroupNorm(2, 8, eps=0.1)",
        "nn.GELU(approximate='tanh')",
        "nn.AdaptiveAvgPool2d((1, None))",
        "nn.Upsample(scale_factor=2.0, mode='bilinear')",
        "nn.PReLU(num_parameters=3)",
        "nn.UpsamplingNearest2d(scale_factor=2.0)",
        "nn.Threshold(0.5, float('-inf'))",
        "nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)",
    ):
        made = eval(text, {"nn": nn})
        again = eval(constructor(made), {"nn": nn})
        assert repr(again) == repr(made)
    with pytest.raises(NotWritable):
        constructor(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(NotWritable):
        write_source(nn.MultiheadAttention(4, 1), torch.zeros(1, 4))
    with pytest.raises(NotWritable, match=r"RuntimeError: mat1 and mat2 [^:…]*$"):  # without a part of torch's graph
        write_source(nn.Linear(4, 2), torch.zeros(1, 3))
