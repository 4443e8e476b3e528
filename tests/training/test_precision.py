"""What computes in which number format."""

import copy
import pickle

import torch
from torch import nn

from nas_optuna.training.network import autocast, keep_grouped_in_float32


def test_grouped_convolutions_compute_in_float32_under_autocast() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
    keep_grouped_in_float32(network)
    images, found = torch.rand(2, 4, 8, 8), []
    with autocast(torch.device("cpu"), torch.bfloat16):
        for layer in network:
            images = layer(images)
            found.append(images.dtype)
        images.sum().backward()
    assert found == [torch.bfloat16, torch.float32, torch.bfloat16]


def test_hooks_change_nothing_outside_of_autocast_and_can_be_copied() -> None:
    layer = nn.Conv2d(4, 4, 3, groups=4)
    images = torch.rand(1, 4, 8, 8)
    expected = layer(images)
    keep_grouped_in_float32(layer)
    for same in (layer, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(same(images), expected)
    assert torch.export.export(layer, (images,)).module()(images).shape == expected.shape
