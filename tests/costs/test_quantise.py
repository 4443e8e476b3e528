"""What is quantised is computed in eight bits, in every layer."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from nas_optuna.costs.quantise import quantised
from nas_optuna.costs.runtimes import to_onnx


class Twice(nn.Module):
    """A layer whose input and whose output are both read twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.silu(self.conv(x))


def network(kind: str) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU()]
    if kind == "read twice":
        layers += [Twice(8), Twice(8)]
    else:
        layers += [nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)]
    if kind == "equal biases":
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)).eval()


def optimised(model: bytes, place: Path) -> tuple[Counter[str], onnxruntime.InferenceSession]:
    """The operators that ONNX Runtime makes of a model, and what runs them."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(place / "optimised.onnx")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(str(place / "optimised.onnx")).graph.node), session


def test_a_number_by_default_is_no_input_of_the_model() -> None:
    class Scaled(nn.Linear):
        def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
            return super().forward(x) * scale

    graph = onnx.load_model_from_string(to_onnx(Scaled(4, 2).eval(), torch.zeros(2, 4))).graph
    assert [given.name for given in graph.input] == ["images"]


def test_a_network_that_torch_jit_has_traced_can_be_written() -> None:
    traced = torch.jit.trace(nn.Linear(4, 2).eval(), torch.zeros(2, 4))
    assert onnx.load_model_from_string(to_onnx(traced, torch.zeros(2, 4))).graph.input[0].name == "images"


@pytest.mark.parametrize("kind", ["plain", "equal biases", "read twice"])
def test_no_convolution_is_left_in_full_precision(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made, images = network(kind), torch.randn(4, 1, 12, 12)
    model = quantised(to_onnx(made, images), [images.numpy()])
    computed, session = optimised(model, tmp_path)
    assert (computed["Conv"], computed["FusedConv"]) == (0, 0), computed
    assert computed["QLinearConv"] == 3
    (logits,) = session.run(None, {"images": images.numpy()})
    exact = made(images).detach().numpy()
    assert np.abs(logits - exact).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize(("channels", "pooling"), [(32, "AveragePool"), (24, "QLinearAveragePool")])
def test_averages_are_computed_where_they_are_faster(channels: int, pooling: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.AvgPool2d(5, 1, 2), nn.Conv2d(channels, 8, 3)]
    made, images = nn.Sequential(*layers).eval(), torch.rand(4, 1, 12, 12)
    model = quantised(to_onnx(made, images), [images.numpy()])
    computed, session = optimised(model, tmp_path)
    assert [kind for kind in computed if kind.endswith("AveragePool")] == [pooling]
    assert computed["QLinearConv"] == 2
    (output,) = session.run(None, {"images": images.numpy()})
    exact = made(images).detach().numpy()
    assert np.abs(output - exact).max() < 0.1 * np.abs(exact).max()
