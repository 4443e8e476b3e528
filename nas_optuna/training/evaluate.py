"""Evaluation of a network on held-out images by built-in and other metrics.

A metric is a function of ``outputs``, float32 logits ``[n, classes]``, and ``targets``, int64 classes ``[n]``, both on
one device. Its result is a scalar on that device, so that reading several metrics waits for the device once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.costs.quantise import CALIBRATION_IMAGES, quantised
from nas_optuna.costs.runtimes import to_onnx
from nas_optuna.data import BatchLoader
from nas_optuna.devices import network_failures
from nas_optuna.errors import TrainingError
from nas_optuna.randomness import RandomState
from nas_optuna.training.network import (
    autocast,
    kind_of,
    may_draw,
    microbatch_size,
    require_logits,
)


def widest_float(device: torch.device) -> torch.dtype:
    """The floating-point numbers in which counts are divided; Apple's GPUs have none of 64 bits."""
    return torch.float32 if device.type == "mps" else torch.float64


def class_counts(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """True positives, images, and predictions of each class, each ``[classes]`` in the widest float of the device."""
    predicted, classes = outputs.argmax(1), outputs.shape[1]

    def total(labels: Tensor, amounts: Tensor) -> Tensor:
        # Not bincount: on CUDA that waits for the device to learn the largest value.
        sums = torch.zeros(classes, dtype=torch.int64, device=labels.device).index_add_(0, labels, amounts)
        return sums.to(widest_float(labels.device))

    ones = torch.ones_like(targets)
    return total(targets, (predicted == targets).to(ones.dtype)), total(targets, ones), total(predicted, ones)


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of correct predictions."""
    return (outputs.argmax(1) == targets).float().mean()


def accuracy_int8(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of correct predictions of the network in eight bits."""
    return accuracy(outputs, targets)


def balanced_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean recall over the classes that occur."""
    recognised, found, _ = class_counts(outputs, targets)
    recall = recognised / found.clamp_min(1)
    return recall.sum() / (found > 0).sum().clamp_min(1)


def macro_f1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean F1 score (harmonic mean of precision and recall) over the classes that occur or were predicted."""
    recognised, found, taken = class_counts(outputs, targets)
    either = taken + found
    scores = 2 * recognised / either.clamp_min(1)
    return scores.sum() / (either > 0).sum().clamp_min(1)


def negative_log_likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy, in nats."""
    return F.cross_entropy(outputs, targets)


def top5_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of images whose class is among the five most probable ones."""
    best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
    return (best == targets[:, None]).any(1).float().mean()


def outputs_in_eight_bits(network: nn.Module, calibration: BatchLoader, images: BatchLoader) -> Tensor:
    """Logits ``[n, classes]`` of all images by a network in eight bits, on the host."""
    # The first 256 images of `calibration` calibrate the range of activations. The network is in eval mode, and not
    # changed.
    known, seen = [], 0
    for batch, _ in calibration.epoch():
        known.append(batch.cpu().contiguous()[: CALIBRATION_IMAGES - seen])
        seen += len(known[-1])
        if seen == CALIBRATION_IMAGES:
            break
    copied = copy.deepcopy(network).float().cpu().to(memory_format=torch.contiguous_format)
    small = quantised(to_onnx(copied, known[0][:2], any_batch=True), [batch.numpy() for batch in known])
    return onnx_logits(small, (batch for batch, _ in images.epoch()))


def onnx_logits(model: bytes, batches: Iterable[Tensor]) -> Tensor:
    """Logits ``[n, classes]`` of all images by an ONNX model."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = (session.run(None, {"images": batch.cpu().contiguous().numpy()})[0] for batch in batches)
    return torch.cat(list(map(torch.from_numpy, found)))


MetricFunction = Callable[[Tensor, Tensor], "Tensor | float"]
"""A metric of float32 outputs ``[n, classes]`` and int64 targets ``[n]``, both on the evaluating device."""


@dataclass(frozen=True)
class Evaluation:
    """The results of a network on all images of a loader; tensors are on the host."""

    loss: float  # the mean cross entropy
    accuracy: float  # the share of correct predictions, 0 … 1
    predicted: Tensor  # ``[n]``, int64: the predicted class of each image, in the loader's order
    metrics: Mapping[str, float] = field(default_factory=dict)  # the other requested ones, by name


@torch.inference_mode()
def evaluate(
    network: nn.Module,  # its mode is restored, and its random numbers come from a fixed seed
    loader: BatchLoader,
    device: torch.device,
    dtype: torch.dtype,  # of activations; float32 is no autocast
    metrics: Mapping[str, MetricFunction] | None = None,  # further ones of all outputs and targets, by name
    calibration: BatchLoader | None = None,  # images for a metric in eight bits; by default the loader's
) -> Evaluation:
    """Run the network over a loader in its stored order, in evaluation mode; this waits for the device once."""
    was_training = network.training
    network.eval()
    loss = torch.zeros((), device=device)
    part: int | None = None
    outputs: list[Tensor] = []
    predictions: list[Tensor] = []
    targets: list[Tensor] = []
    state = RandomState(0, device) if may_draw(network) else None
    for images, labels in loader.epoch():
        with network_failures("evaluation failed"), state.current() if state else nullcontext():
            part = part or microbatch_size(network, images)
            with autocast(device, dtype):
                logits = torch.cat([_logits(network, some) for some in images.split(part)])
            loss += F.cross_entropy(logits.float(), labels, reduction="sum")
        predictions.append(logits.argmax(1))
        targets.append(labels)
        if metrics:
            outputs.append(logits.float())
    predicted, truth = torch.cat(predictions), torch.cat(targets)
    rounded = cache(lambda: (outputs_in_eight_bits(network, calibration or loader, loader), truth.cpu()))
    found = {}
    for name, function in (metrics or {}).items():
        pair = rounded() if getattr(function, "eight_bits", False) else (torch.cat(outputs), truth)
        with network_failures(f"metric {name!r} failed"):
            value = function(*(part.clone() for part in pair))  # a user's function may change them
            try:
                found[name] = float(value)
            except (TypeError, ValueError, RuntimeError, OverflowError) as error:
                raise TrainingError(f"metric {name!r} gave {kind_of(value)}, not a number") from error
    network.train(was_training)
    accuracy = (predicted == truth).sum().item() / loader.size
    return Evaluation((loss / loader.size).item(), accuracy, predicted.cpu(), found)


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images)
    require_logits(logits, len(images))
    return logits
