"""The reference training loop, written afresh from its description.

torchvision's MNIST through PIL (to tensor, normalise, resize) in a DataLoader, the network in its default memory format
with ReLU before pooling, `.item()` in every step. Imported late, because it imports torch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

RATE, MOMENTUM = 0.05, 0.5
MEAN, STD = 0.1307, 0.3081

Layers = Sequence[tuple[int, ...]]
"""Filters, kernel and stride of each layer."""


def pipeline(input_size: int) -> Any:
    """What is done to each image whenever it is read."""
    return transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,)), transforms.Resize((input_size, input_size))]
    )


def mnist(input_size: int) -> Any:
    """MNIST's training images in the folder that NAS_OPTUNA_DATA names."""
    return datasets.MNIST(os.environ["NAS_OPTUNA_DATA"], train=True, transform=pipeline(input_size))


class EnlargedDigits:
    """scikit-learn's digits, repeated to 6,000 images, behind the interface of a torchvision data set."""

    def __init__(self, pipeline: Any) -> None:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        self.images, self.labels, self.pipeline = bunch.images, bunch.target, pipeline

    def __len__(self) -> int:
        return 6000

    def __getitem__(self, index: int) -> tuple[Any, int]:
        import numpy as np
        from PIL import Image

        at = index % len(self.images)
        picture = Image.fromarray(np.rint(self.images[at] * (255 / 16)).astype(np.uint8))
        return self.pipeline(picture.resize((28, 28))), int(self.labels[at])


def loader(images: Any, chosen: range, batch_size: int, shuffle: bool = True) -> DataLoader[Any]:
    """Batches of some of the images."""
    return DataLoader(Subset(images, chosen), shuffle=shuffle, batch_size=batch_size)


class Network(nn.Module):
    """A chain of convolutions, each followed by ReLU and max pooling, and one linear layer."""

    def __init__(self, layers: Layers, input_size: int) -> None:
        super().__init__()
        channels, side = 1, input_size
        self.convs = nn.ModuleList()
        for filters, kernel, stride in layers:
            padding = (kernel + 1) // 2
            self.convs.append(nn.Conv2d(channels, filters, kernel, stride, padding))
            channels, side = filters, int(((side - kernel + 2 * padding) // stride + 1) / 2)
        self.pool, self.relu = nn.MaxPool2d(2), nn.ReLU()
        self.fc = nn.Linear(channels * side * side, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``[batch, 10]``."""
        for conv in self.convs:
            x = self.pool(self.relu(conv(x)))
        logits: torch.Tensor = self.fc(x.view(x.size(0), -1))
        return logits


def optimizer_of(network: Network) -> torch.optim.SGD:
    """The reference's optimizer."""
    return torch.optim.SGD(network.parameters(), lr=RATE, momentum=MOMENTUM)


def train_epoch(network: Network, optimizer: torch.optim.SGD, batches: DataLoader[Any]) -> float:
    """One epoch; the mean loss."""
    criterion = nn.CrossEntropyLoss()
    network.train()
    running = 0.0
    for inputs, labels in batches:
        optimizer.zero_grad()
        loss = criterion(network(inputs), labels)
        loss.backward()
        optimizer.step()
        running += loss.item()
    return running / len(batches)


def accuracy(network: Network, batches: DataLoader[Any]) -> float:
    """The share of right answers."""
    network.eval()
    with torch.no_grad():
        right = [(network(inputs).argmax(1) == labels).float() for inputs, labels in batches]
    return float(torch.cat(right).mean())
