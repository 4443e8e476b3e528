"""An exported network in eight bits, with its accuracy, size and latency."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from nas_optuna.costs.quantise import CALIBRATION_IMAGES, quantised, require_tools
from nas_optuna.costs.timing import session_call, visit
from nas_optuna.errors import SpecError, TrainingError
from nas_optuna.files import write_file
from nas_optuna.study.significance import sampling_error
from nas_optuna.training.evaluate import onnx_logits

FILE = "model.int8.onnx"
_BATCH = 64
_SECONDS = 0.3
_MOST_SUSPECTS = 40
_WITHOUT = "export it without --int8 (in Python without eight_bits)"


@dataclass(frozen=True)
class EightBits:
    """The raw images that calibrate and score a network in eight bits, uint8 ``[n, channels, height, width]``."""

    calibration: Tensor  # training images; at most 256 are used
    images: Tensor  # that the network was not trained on
    labels: Tensor  # their classes ``[n]``


@dataclass(frozen=True)
class Figures:
    """One file's figures."""

    accuracy: float  # share of correctly classified images
    bytes: int  # size of the file
    latency_ms: float  # of one image on this machine in ONNX Runtime with one thread


@dataclass(frozen=True)
class Int8Export:
    """``model.int8.onnx`` compared with ``model.onnx``."""

    fp32: Figures
    int8: Figures
    images: int  # on which the accuracies were measured
    culprit: str | None  # the layer that costs the most accuracy, if more than a standard error is lost

    @property
    def sentence(self) -> str:
        """E.g. ``"0.9760 → 0.9740 on 1,000 images"``."""
        return f"{self.fp32.accuracy:.4f} → {self.int8.accuracy:.4f} on {self.images:,} images"


def write_int8(folder: Path, by: EightBits) -> Int8Export:
    """Write ``model.int8.onnx`` from ``model.onnx``, and measure both."""
    # Static quantisation by ONNX Runtime's own tool; the preparation of pixels stays in full precision.
    require_tools()
    import onnx

    try:
        model = (folder / "model.onnx").read_bytes()
    except OSError as error:
        raise SpecError(f"this network has no model.onnx that could be quantised; {_WITHOUT}") from error
    nodes = onnx.load_model_from_string(model).graph.node
    begins = next((i for i, node in enumerate(nodes) if node.op_type in ("Conv", "Gemm", "MatMul")), len(nodes))
    preparing = [node.name for node in nodes[:begins]]
    chosen = [part.cpu().numpy() for part in by.calibration[:CALIBRATION_IMAGES].split(_BATCH)]
    try:
        small = quantised(model, chosen, kept=preparing)
    except TrainingError as error:
        raise SpecError(f"{error}; {_WITHOUT}") from error
    write_file(folder / FILE, small)
    truth, raw = by.labels.cpu(), by.images.cpu()
    timed = (visit(session_call(m, 1, raw[:1].numpy()), _SECONDS)[1] for m in (model, small))
    fp32, int8 = (Figures(_accuracy(m, raw, truth), len(m), ms) for m, ms in zip((model, small), timed, strict=True))
    lost = fp32.accuracy - int8.accuracy
    suspects = [node.name for node in nodes[begins:] if node.op_type in ("Conv", "Gemm", "MatMul", "Add", "Mul")]
    culprit = None
    if lost > sampling_error(fp32.accuracy, len(truth)) and len(suspects) <= _MOST_SUSPECTS:
        spared = {name: _accuracy(quantised(model, chosen, kept=[*preparing, name]), raw, truth) for name in suspects}
        culprit = max(spared, key=spared.__getitem__) if spared else None
    return Int8Export(fp32, int8, len(truth), culprit)


def _accuracy(model: bytes, images: Tensor, labels: Tensor) -> float:
    return (onnx_logits(model, images.split(_BATCH)).argmax(1) == labels).double().mean().item()
