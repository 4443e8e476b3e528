"""Which networks can be written as plain torch."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_optuna.export import NotWritable, write_source


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
