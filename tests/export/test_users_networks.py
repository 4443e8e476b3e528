"""A network of a user's own is exported in the forms that it allows, and each other one is left out with its reason."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from nas_optuna.data import ImageSet
from nas_optuna.export.package import MARK
from nas_optuna.spec import StudySpec
from nas_optuna.training import ImageClassifier
from nas_optuna.training.serialization import make_header
from tests.export.test_package import export, run_model, some_images
from tests.training.user_space import UserSpace


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
    images = some_images()
    odd = Odd().eval()
    odd(torch.zeros(1, 1, 16, 16))
    classifier = _of_user(odd, images)
    exported = export(classifier, tmp_path / "out", images)
    assert "model.py" in exported.files, exported.left_out
    Image.fromarray(images.images[3, 0].numpy()).save(tmp_path / "image.png")
    assert classifier.predict(images.images[3])[0] in run_model(tmp_path / "out", tmp_path / "image.png")


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
    images = some_images()
    exported = export(_of_user(Recurrent(layer), images), tmp_path / "out", images)
    assert "model.py" in exported.files, exported.left_out


def test_a_layer_that_does_not_tell_how_it_was_made_costs_one_form_alone(tmp_path: Path) -> None:
    images = some_images()
    changed = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    changed[1].in_features = "many"  # type: ignore[assignment] # a class of the user's may keep anything there
    exported = export(_of_user(changed, images), tmp_path / "out", images)
    assert "Linear does not tell how it was made" in exported.left_out["model.py"]
    assert "model.safetensors" in exported.files


def test_what_cannot_be_made_is_left_out_with_the_reason(tmp_path: Path) -> None:
    images = some_images()
    exported = export(_of_user(ValueDependent(), images), tmp_path / "out", images)
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
    classifier = _of_user(network, some_images())
    exported = export(classifier, tmp_path / "out", some_images())
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
        exported = export(_of_user(network, some_images()), tmp_path / type(network).__name__, some_images())
        assert {"model.py", "model.onnx"} <= exported.left_out.keys()
    assert capfd.readouterr() == ("", "")
