import random
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from playwright.sync_api import sync_playwright
from torch import Tensor, nn

from nas_optuna.costs.complexity import figures
from nas_optuna.errors import NasOptunaError
from nas_optuna.report.drawing import draw, to_svg
from nas_optuna.report.network_graph import graph_of, trace
from nas_optuna.spaces import create_space
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.conv import ConvSpace
from tests.helpers import Command, files_in

SVG = "{http://www.w3.org/2000/svg}"


class TwoBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 5, padding=2)
        self.head = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((torch.relu(self.left(images)) + self.right(images)).mean((2, 3)))


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", ["conv", "block", "macro"])
def test_every_layer_of_a_network_is_drawn_with_its_share(name: str) -> None:
    space = create_space(name, {}, in_channels=3, classes=7, input_size=(24, 20))
    for seed in range(3):
        architecture = space.sample(random.Random(seed))
        layers = graph_of(space, architecture)
        network = space.build(architecture)
        convs = sum(isinstance(m, nn.Conv2d) for m in network.modules())
        assert sum(layer.kind == "conv" for layer in layers) == convs
        assert sum(layer.params for layer in layers) == sum(p.numel() for p in network.parameters())
        assert sum(layer.macs for layer in layers) == figures(space, architecture).macs
        assert layers[0].shape == (3, 24, 20)
        assert layers[-1].shape == (7,)
        shown = texts(draw(space, architecture).svg)
        assert all(any(layer.title[:20] == text[:20] for text in shown) for layer in layers[1:])


def test_branches_and_what_joins_them_are_arrows() -> None:
    layers = trace(TwoBranches(), (3, 8, 8))
    titles = [layer.title for layer in layers]
    assert titles == ["input", "Conv 3×3, 4 filters", "Conv 5×5, 4 filters", "+", "Linear, 2 outputs"]
    assert [layer.inputs for layer in layers] == [(), (0,), (0,), (1, 2), (3,)]
    root = ElementTree.fromstring(to_svg(trace(TwoBranches(), (3, 8, 8)), "two branches"))
    assert sum(path.get("class") == "flow" for path in root.iter(f"{SVG}path")) == 5


def test_attention_and_recurrence_are_boxes_with_their_weights() -> None:
    class Attentive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.memory = nn.LSTM(8, 5, batch_first=True)

        def forward(self, images: Tensor) -> Tensor:
            words = images.flatten(2)
            return self.memory(self.attention(words, words, words)[0])[0][:, -1]

    network = Attentive()
    layers = trace(network, (3, 2, 4))
    assert {"multi head attention", "lstm"} <= {layer.title for layer in layers}
    assert sum(layer.params for layer in layers) == sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("error", [KeyError, TypeError, RuntimeError])
def test_a_network_that_fails_is_refused_in_one_line(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def build(space: ConvSpace, architecture: Architecture) -> nn.Module:
        raise error("no weights\nhere")

    monkeypatch.setattr(ConvSpace, "build", build)
    space = ConvSpace(depth=1)
    with pytest.raises(NasOptunaError, match=r"cannot be drawn: .*no weights.*here"):
        draw(space, space.parse("f16k3s1"))


def test_a_title_is_never_markup() -> None:
    svg = to_svg(trace(TwoBranches(), (3, 8, 8)), '<script>alert(1)</script>&"\x07')
    assert "<script" not in svg
    assert any("<script>" in text for text in texts(svg))  # shown as it is


class Long(nn.Sequential):
    """Each line of its first box is longer than the box."""

    def __init__(self) -> None:
        conv = nn.Conv2d(3, 256, 3, padding=1, groups=1, stride=2)
        after = nn.BatchNorm2d(256), nn.Hardswish(), nn.MaxPool2d(2), nn.Dropout2d(), nn.AdaptiveAvgPool2d(28)
        super().__init__(conv, *after, nn.Flatten(), nn.Linear(256 * 28 * 28, 2))


@pytest.mark.process
def test_no_text_leaves_the_drawing_or_lies_over_another() -> None:
    svg = to_svg(trace(Long(), (3, 224, 224)), "activation=gelu,downsampling=stride,width=WWWWWWWWWWWWWWWWWWWWWW")
    measure = """() => [...document.querySelectorAll("text")].map(text => {
        const box = text.getBBox(); return [box.x, text.getAttribute("y"), box.x + box.width]; })"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content(svg)
        boxes = page.evaluate(measure)
        browser.close()
    width = float(ElementTree.fromstring(svg).get("viewBox", "").split()[2])
    assert max(right for _, _, right in boxes) <= width
    for left, y, _ in boxes:
        assert not [b for b in boxes if b[1] == y and b[0] < left < b[2]], "two texts overlap"


def test_draw_writes_the_winner(command: Command, study: str, place: Path) -> None:
    result = command("draw", "--trial", "1", "--out", "one.svg")
    assert result.code == 0, result.err
    assert "Linear, 10 outputs" in texts((place / "one.svg").read_text("utf-8"))
    assert command("draw", "--out", "-").out.startswith("<svg")
    assert command("draw", "--architecture", "f16k3s1-f48k7s2", "--out", "-").out.count("Conv 7×7, 48 filters") >= 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--trial", "7"),
        ("--trial", "worst"),
        ("--study", "nobody"),
        ("--out", "no/such/folder.svg"),
        ("--architecture", "x"),
    ],
)
def test_draw_refuses_in_one_line(command: Command, study: str, place: Path, arguments: tuple[str, ...]) -> None:
    before = files_in(place)
    result = command("draw", *arguments)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert len(result.err.splitlines()) == 1
    assert files_in(place) == before
