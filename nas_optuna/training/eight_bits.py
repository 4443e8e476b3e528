"""What a network says in eight bits, as a device would run it: statically quantised by ONNX Runtime's own tool."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nas_optuna.costs.quantise import CALIBRATION_IMAGES, quantised
from nas_optuna.costs.runtimes import to_onnx
from nas_optuna.data import BatchLoader


def outputs_in_eight_bits(network: nn.Module, calibration: BatchLoader, images: BatchLoader) -> tuple[Tensor, Tensor]:
    """Logits of all images by a network whose weights and activations are eight-bit integers.

    Args:
        network: In eval mode; it stays as it is.
        calibration: Training images, of which the first 256 tell how large activations become.
        images: What is classified, in its stored order.

    Returns:
        Logits ``[n, classes]``, float32, and targets ``[n]``, both on the host.

    Raises:
        TrainingError: The network cannot be quantised; the layer is named where one is to blame.
    """
    import onnxruntime

    known, seen = [], 0
    for batch, _ in calibration.epoch():
        known.append(batch.cpu().contiguous()[: CALIBRATION_IMAGES - seen])
        seen += len(known[-1])
        if seen == CALIBRATION_IMAGES:
            break
    copied = copy.deepcopy(network).float().cpu().to(memory_format=torch.contiguous_format)
    small = quantised(to_onnx(copied, known[0][:2], any_batch=True), [batch.numpy() for batch in known])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(small, options, providers=["CPUExecutionProvider"])
    logits, targets = [], []
    for batch, labels in images.epoch():
        (found,) = session.run(None, {"images": batch.cpu().contiguous().numpy()})
        logits.append(torch.from_numpy(found))
        targets.append(labels.cpu())
    return torch.cat(logits), torch.cat(targets)
