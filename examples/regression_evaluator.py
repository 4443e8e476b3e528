r"""A training of your own: regression with plain torch, searched like any classifier.

Each handwritten digit is turned by an angle, and the network has to say which. Nothing here is a classifier: the data
are made here, the loss is a squared error, and what selects is the root of the mean squared error in degrees.

    nas-optuna run --study angles --trials 20 --sampler tpe --pruner median \
        --objective rmse:minimize --set evaluator.name=examples/regression_evaluator.py:AngleEvaluator

Pruning, resuming, costs, samplers, several workers and the dashboard work as for our own training. An evaluator needs
`space`, `steps`, `identity` and `evaluate`; see `nas_optuna.execution.evaluator.Evaluator`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn
from torchvision.transforms.functional import rotate

import nas_optuna as nas
from nas_optuna.execution.evaluator import EvaluatorContext, Measurement


class AngleEvaluator:
    """Train a network to tell by how many degrees a digit was turned.

    Args:
        context: The study's space, and where to train.
        epochs: Passes over the images.
        images: How many images to use; a quarter of them validates.
        learning_rate: Of AdamW.
    """

    def __init__(
        self, context: EvaluatorContext, *, epochs: int = 8, images: int = 800, learning_rate: float = 3e-3
    ) -> None:
        self.steps = epochs
        self.identity = f"angles of {images} digits, {epochs} epochs, learning rate {learning_rate}"
        self.space = context.space(in_channels=1, outputs=1, input_size=8)
        self._learning_rate = learning_rate
        self._device = context.device
        digits = nas.load_data("digits").train.images[:images].float() / 16
        self._angles = torch.rand(len(digits), 1, generator=torch.Generator().manual_seed(0)) * 90 - 45
        turned = [rotate(image, float(angle)) for image, angle in zip(digits, self._angles, strict=True)]
        self._images = torch.stack(turned)

    def evaluate(
        self, architecture: nas.Architecture, *, resume: Path | None, stop: Callable[[], bool]
    ) -> Iterator[Measurement]:
        """Yield the validation error after each epoch; go on from what an earlier process left in `resume`."""
        torch.manual_seed(0)
        network = self.space.build(architecture).to(self._device)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self._learning_rate)
        done: list[float] = []
        file = resume / "state.pt" if resume else None
        if file and file.exists():
            state = torch.load(file, weights_only=True)
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
            done = state["errors"]
            for step, error in enumerate(done, start=1):
                yield Measurement(step, {"rmse": error}, seconds=0.0)
        for step in range(len(done) + 1, self.steps + 1):
            started = time.perf_counter()
            done.append(self._epoch(network, optimizer, step, stop))
            if file:
                file.parent.mkdir(parents=True, exist_ok=True)
                state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "errors": done}
                torch.save(state, file.with_suffix(".new"))
                file.with_suffix(".new").replace(file)  # never half a file
            yield Measurement(step, {"rmse": done[-1]}, seconds=time.perf_counter() - started)

    def _epoch(
        self, network: nn.Module, optimizer: torch.optim.Optimizer, step: int, stop: Callable[[], bool]
    ) -> float:
        images, angles = self._images.to(self._device), self._angles.to(self._device)
        training = len(images) * 3 // 4
        order = torch.randperm(training, generator=torch.Generator().manual_seed(step)).to(self._device)
        network.train()
        for batch in order.split(32):
            if stop():
                raise nas.Interrupted
            loss = nn.functional.mse_loss(network(images[batch]), angles[batch] / 45)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            error = network(images[training:]) * 45 - angles[training:]
            return float(error.square().mean().sqrt())
