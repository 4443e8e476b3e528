"""Networks of four spaces in eight bits: as accurate within a standard error, or the layer that costs it is named."""

import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nas_optuna import SearchData, load_data
from nas_optuna.data import BatchLoader
from nas_optuna.export import export_network
from nas_optuna.export.formats import onnx_model
from nas_optuna.export.int8 import FILE, EightBits, Int8Export, write_int8
from nas_optuna.spaces import create_space
from nas_optuna.spec import StudySpec
from nas_optuna.study.significance import sampling_error
from nas_optuna.training import ImageClassifier, fit, make_network
from nas_optuna.training.serialization import make_header

CPU = torch.device("cpu")
EXAMPLES = Path(__file__).parents[2] / "examples"
SPACES: list[tuple[str, dict[str, Any]]] = [
    ("conv", {"depth": 2}),
    ("macro", {"stages": 2, "widths": [8, 16], "depths": [1, 2]}),
    ("residual", {"width": 8, "stages": 2}),
    (f"{EXAMPLES}/my_space.py:network", {}),
]
IN_THE_DEFAULT_SUITE = 1
MORE = 20

OPENS = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(given,) = session.get_inputs()
images = numpy.zeros((3, *given.shape[1:]), dtype="uint8")
print(session.run(None, {given.name: images})[0].shape)
"""


@pytest.fixture(scope="module")
def digits() -> SearchData:
    return load_data("digits")


def quantised(
    name: str, options: dict[str, Any], number: int, digits: SearchData, folder: Path, *, epochs: int = 5
) -> Int8Export:
    """A random network of a space, trained for seconds, in eight bits."""
    side = 16
    recipe = {"input_size": side, "epochs": epochs, "batch_size": 64, "learning_rate": 3e-3, "optimizer": "adamw"}
    spec = StudySpec.from_dict({"space": {"name": name, **options}, "recipe": recipe})
    space = create_space(name, options, in_channels=1, classes=10, input_size=side)
    architecture = space.sample(random.Random(number))
    network = make_network(space, architecture, spec.recipe, CPU, seed=number)
    loader = BatchLoader(digits.train, 64, side, CPU)
    list(fit(network, loader, None, spec.recipe, CPU, seed=number))
    classifier = ImageClassifier(network, architecture, make_header(architecture, spec, digits.train)).eval()
    onnx_model(classifier, digits.train.images[:2], folder / "model.onnx", "digits")
    held_out = digits.validation
    return write_int8(folder, EightBits(digits.train.images, held_out.images, held_out.labels))


def require_kept(made: Int8Export, folder: Path, digits: SearchData) -> None:
    lost = made.fp32.accuracy - made.int8.accuracy
    if lost > sampling_error(made.fp32.accuracy, made.images):
        assert made.culprit in {node.name for node in onnx.load(str(folder / "model.onnx")).graph.node}
    session = onnxruntime.InferenceSession(str(folder / FILE), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": digits.validation.images.numpy()})
    assert np.mean(logits.argmax(1) == digits.validation.labels.numpy()) == pytest.approx(made.int8.accuracy)


@pytest.mark.parametrize(("name", "options"), SPACES, ids=["conv", "macro", "residual", "function"])
@pytest.mark.parametrize("number", range(IN_THE_DEFAULT_SUITE))
def test_eight_bits_keep_the_accuracy_or_name_the_layer(
    name: str, options: dict[str, Any], number: int, digits: SearchData, tmp_path: Path
) -> None:
    made = quantised(name, options, number, digits, tmp_path, epochs=2)
    assert made.fp32.accuracy > 0.2, "it has learned something that could be lost"
    require_kept(made, tmp_path, digits)


def test_images_of_another_size_are_brought_to_the_one_that_the_network_takes(
    digits: SearchData, tmp_path: Path
) -> None:
    """Test images of a file may be larger than those of the training."""
    spec = StudySpec.from_dict({"space": {"name": "conv", "depth": 1}, "recipe": {"input_size": 8}})
    space = create_space("conv", {"depth": 1}, in_channels=1, classes=10, input_size=8)
    architecture = space.parse("f16k3s1")
    network = make_network(space, architecture, spec.recipe, CPU, seed=0)
    classifier = ImageClassifier(network, architecture, make_header(architecture, spec, digits.train))
    larger = digits.validation.images[:20].repeat_interleave(2, 2).repeat_interleave(2, 3)
    eight_bits = EightBits(digits.train.images, larger, digits.validation.labels[:20])
    made = export_network(classifier, tmp_path / "model", larger, title="digits", facts={}, eight_bits=eight_bits)
    assert not made.left_out
    assert made.int8 is not None
    assert made.int8.images == 20


def test_one_image_lost_by_a_network_without_a_mistake_blames_no_layer(
    digits: SearchData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(digits.validation)
    accuracies = iter([1.0, 1 - 1 / count])
    monkeypatch.setattr("nas_optuna.export.int8._accuracy", lambda *_: next(accuracies))
    made = quantised("conv", {"depth": 1}, 0, digits, tmp_path, epochs=1)
    assert made.fp32.accuracy - made.int8.accuracy == pytest.approx(1 / count)
    assert made.culprit is None


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("name", "options"), SPACES, ids=["conv", "macro", "residual", "function"])
def test_twenty_networks_of_each_space(name: str, options: dict[str, Any], digits: SearchData, tmp_path: Path) -> None:
    inside, named, learned = 0, [], 0
    for number in range(MORE):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = quantised(name, options, number, digits, folder)
        require_kept(made, folder, digits)
        inside += made.fp32.accuracy - made.int8.accuracy <= sampling_error(made.fp32.accuracy, made.images)
        named += [made.culprit] if made.culprit else []
        learned += made.fp32.accuracy > 0.2  # a network of nothing but "skip" hardly does
        print(f"{name} {number}: {made.sentence} {made.culprit or ''}")
    print(f"{name}: {inside} of {MORE} within one standard error, of the others the layer is named: {named}")
    assert inside + len(named) >= MORE
    assert learned >= 0.7 * MORE, "there is something that could be lost"


@pytest.mark.process
@pytest.mark.parametrize(("name", "options"), SPACES, ids=["conv", "macro", "residual", "function"])
def test_the_files_open_where_only_onnx_runtime_is(
    name: str, options: dict[str, Any], digits: SearchData, tmp_path: Path, bare_python: Path
) -> None:
    quantised(name, options, 0, digits, tmp_path)
    for file in ("model.onnx", FILE):
        command = [str(bare_python), "-c", OPENS, str(tmp_path / file)]
        opened = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env={"PATH": ""})
        assert opened.stdout.strip() == "(3, 10)", opened.stderr
