"""Which networks can be written as plain torch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_optuna.export import NotWritable, write_source
from nas_optuna.export.source import constructor


class _Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)


class _Optional(_Own):
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0, *, deep: bool = False) -> Tensor:
        if deep:
            x = x + 1
        if mask is not None:
            x = x * mask
        found: Tensor = self.layer(x if scale == 1.0 else x * scale)
        return found


class _Scaled(_Own):
    def forward(self, x: Tensor, scale: float = 2.0) -> Any:
        return self.layer(x) * scale


class _Second(_Own):
    def forward(self, x: Tensor, **more: Any) -> Any:
        return self.layer(x) * more.get("scale", 1.0)


def test_optional_arguments_of_forward_have_their_defaults() -> None:
    assert write_source(_Optional(), torch.zeros(1, 4))[1] == ["x = self.layer(x)  # [2]", "return x"]
    assert write_source(_Scaled(), torch.zeros(1, 4))[1][1:] == ["x = x * 2.0  # [2]", "return x"]


def test_a_network_that_uses_more_than_images_is_left_out() -> None:
    with pytest.raises(NotWritable, match="cannot be traced"):
        write_source(_Second(), torch.zeros(1, 4))


def test_a_layer_may_have_the_name_of_a_value_of_the_trace() -> None:
    network = nn.Sequential()
    network.add_module("value9", nn.Linear(4, 2))
    network.add_module("value1", nn.ReLU())
    steps = write_source(network, torch.zeros(1, 4))[1]
    assert steps == ["x = self.value9(x)  # [2]", "x = self.value1(x)  # [2]", "return x"]


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
