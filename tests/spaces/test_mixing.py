"""What a supernet computes with in each step."""

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nas_optuna.spaces.mixing import Open, Optional, Size, _kept, constant
from nas_optuna.spaces.supernet import ChoiceWeights

META = torch.device("meta")
"""Stands for a GPU: a device whose host would wait for a copy."""


def mixed(weights: Tensor) -> Size:
    return Size((Open("width", 3, ChoiceWeights(None, weights)),), (2, 4, 5))


def test_a_mask_is_the_weight_of_the_choices_that_have_a_channel() -> None:
    mask = mixed(torch.tensor([0.5, 0.25, 0.125])).mask()
    assert mask is not None
    assert mask.tolist() == [0.875, 0.875, 0.375, 0.375, 0.125]


def test_a_step_copies_no_numbers_that_an_earlier_one_has_copied() -> None:
    size = mixed(torch.rand(3, device=META))
    layer, x = Optional(nn.Identity(), size, number=4), torch.rand(2, 5, device=META)
    for _ in range(2):
        before = _kept.cache_info().misses
        size.mask()
        layer(x)
    assert _kept.cache_info().misses == before
    assert _kept.cache_info().maxsize is not None


def test_what_is_kept_serves_every_use() -> None:
    like = torch.rand(2, device=META)
    with torch.inference_mode():
        made = constant((2.0, 7.5), like)
    assert made is constant((2.0, 7.5), like)
    assert not made.is_inference(), "autograd can save it"
    assert constant((2.0, 7.5), like, torch.int64).dtype == torch.int64
    assert constant((2.0, 7.5), torch.rand(2)).tolist() == [2.0, 7.5]
    before = _kept.cache_info().currsize
    with FakeTensorMode():
        assert constant((2.0, 7.5), torch.rand(2, device="cuda")).device.type == "cuda"
    assert _kept.cache_info().currsize == before, "a fake tensor is of its mode"
