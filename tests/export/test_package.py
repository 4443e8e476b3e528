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

from nas_optuna import load_network
from nas_optuna.data import ImageSet, load_images
from nas_optuna.errors import DataError
from nas_optuna.export import Exported, export_network, package
from nas_optuna.export.package import MARK
from nas_optuna.files import scratch_folder
from nas_optuna.spaces import create_space
from nas_optuna.spec import StudySpec
from nas_optuna.training import ImageClassifier, make_network
from nas_optuna.training.serialization import make_header

CPU = torch.device("cpu")
EXAMPLES = Path(__file__).parents[2] / "examples"
ALL = ("model.safetensors", "model.py", "model.pt2", "model.onnx", "picture.py", "README.md")


def some_images(shape: tuple[int, int, int] = (1, 8, 8), resize: str = "stretch") -> ImageSet:
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


def export(classifier: ImageClassifier, folder: Path, images: ImageSet) -> Exported:
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


def run_model(folder: Path, *words: object, code: object = 0) -> str:
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
    images = some_images(shape, resize)
    classifier = _classifier(name, images, **options)
    exported = export(classifier, tmp_path / "out", images)
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
    said = run_model(tmp_path / "out", tmp_path / "image.png")
    assert said.startswith(f"{tmp_path}/image.png: {classifier.predict(images.images[0])[0]} (")
    assert "nas_optuna" not in (tmp_path / "out/model.py").read_text()


@pytest.mark.process
def test_model_py_needs_torch_alone_and_says_what_pictures_need(tmp_path: Path) -> None:
    images = some_images((3, 20, 30), "crop")
    classifier = _classifier("conv", images, depth=2)
    export(classifier, tmp_path / "out", images)
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
    images = some_images()
    export(_classifier("conv", images, depth=1), tmp_path / "out", images)
    out = tmp_path / "out"
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n not one")
    assert run_model(out, "--help").startswith("usage: python model.py")
    assert run_model(out, code=2).startswith("usage: python model.py")
    assert run_model(out, "--help").isascii(), "any terminal can show it"
    for name in ("absent.png", "../damaged.png", "..", "/dev/zero"):
        said = run_model(out, name, code=1)
        assert said.startswith(f"{name} cannot be read: ")
        assert "\n" not in said
    Image.fromarray(images.images[0, 0].numpy()).save(tmp_path / "image.png")
    said = run_model(out, "absent.png", "../image.png", "/", code=1)
    assert [line.partition(" ")[0] for line in said.splitlines()] == ["../image.png:", "absent.png", "/"]
    (out / "model.safetensors").rename(out / "elsewhere")
    assert run_model(out, "x.png", code=1).startswith("model.safetensors beside this file cannot be read: ")


@pytest.mark.process
def test_the_code_in_the_readme_runs(tmp_path: Path) -> None:
    images = some_images()
    export(_classifier("conv", images, depth=1), tmp_path / "out", images)
    text = (tmp_path / "out/README.md").read_text()
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) == 3
    strangers = [block for block in blocks if "import nas_optuna" not in block]
    assert len(strangers) == 2
    Image.fromarray(images.images[0, 0].numpy()).save(tmp_path / "out/image.png")
    said = _alone(tmp_path / "out", "-c", f"for block in {strangers!r}: exec(block, {{'__name__': '__main__'}})")
    assert len(said.splitlines()) == 2
    assert set(said.splitlines()) <= set(images.classes)


def test_a_function_space_is_exported_in_all_forms_and_the_readme_asks_for_it(tmp_path: Path) -> None:
    images = some_images()
    classifier = _classifier(f"{EXAMPLES}/my_space.py:network", images)
    exported = export(classifier, tmp_path / "out", images)
    assert (exported.files, exported.left_out) == (ALL, {})
    Image.fromarray(images.images[3, 0].numpy()).save(tmp_path / "image.png")
    assert classifier.predict(images.images[3])[0] in _alone(tmp_path / "out", "model.py", "../image.png")
    assert 'load_network("model.safetensors", space=network)' in (tmp_path / "out/README.md").read_text()


def test_a_network_of_images_that_are_no_pictures_says_what_it_takes(tmp_path: Path) -> None:
    images = some_images((4, 8, 8))
    classifier = _classifier("conv", images, depth=1)
    exported = export(classifier, tmp_path / "out", images)
    assert exported.files == tuple(name for name in ALL if name != "picture.py")
    assert run_model(tmp_path / "out", "a.png", code=1) == (
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
    images = some_images()
    exported = export(_classifier("conv", images, depth=1), tmp_path / "out", images)
    assert exported.left_out == {"model.onnx": "it needs two more packages: pip install 'nas-optuna[onnx]'"}
    assert exported.files == ("model.safetensors", "model.py", "model.pt2", "picture.py", "README.md")


def test_an_export_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    images = some_images()
    classifier = _classifier("conv", images, depth=1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place, says in (("full", "did not write"), ("file", "is a file"), ("file/below", "cannot write to")):
        with pytest.raises(DataError, match=says):
            export(classifier, tmp_path / place, images)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]
    export(classifier, tmp_path / "out", images)
    before = (tmp_path / "out/model.py").read_text()
    export(_classifier("block", images, depth=1), tmp_path / "out", images)
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
    """In a container ``/out`` may be a mount: the root folder is read-only, and nothing can be moved into the mount."""
    used: list[Path] = []

    def scratch(parent: Path) -> AbstractContextManager[Path]:
        used.append(parent)
        return scratch_folder(parent)

    monkeypatch.setattr(package, "scratch_folder", scratch)
    monkeypatch.setattr(type(package.FORMATS), "names", lambda self: ["model.safetensors"])
    images, out = some_images(), tmp_path / "out"
    (out / ".nas-optuna-host-killed").mkdir(parents=True)
    exported = export(_classifier("conv", images, depth=1), out, images)
    assert used == [out]
    assert {path.name for path in out.iterdir()} == {MARK, ".nas-optuna-host-killed", *exported.files}


def test_a_hostile_class_name_stays_text(tmp_path: Path) -> None:
    names = ('"""', "');open('executed','w')#", "{x}", "\\", "a\nb", "ü", "[red]", "|", "`🐈", "é")
    images = replace(some_images(), classes=names)
    exported = export(_classifier("conv", images, depth=1), tmp_path / "out", images)
    assert exported.left_out == {}
    Image.fromarray(images.images[0, 0].numpy()).save(tmp_path / "image.png")
    run_model(tmp_path / "out", tmp_path / "image.png")
    assert not (tmp_path / "out/executed").exists()
    obeyed = replace(images, classes=tuple(f"\x1b]0;{i}\x07\u202e" for i in range(10)))
    export(_classifier("conv", obeyed, depth=1), tmp_path / "terminal", obeyed)
    said = run_model(tmp_path / "terminal", tmp_path / "image.png")
    assert "\x1b" not in said + (tmp_path / "terminal/README.md").read_text()
    assert tuple(runpy.run_path(str(tmp_path / "out/model.py"))["CLASSES"]) == names
    row = next(line for line in (tmp_path / "out/README.md").read_text().splitlines() if line.startswith("| classes"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3, "no class ends a cell of the table"
