"""ONNX models in eight bits, by ONNX Runtime's static quantisation."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nas_optuna.errors import SpecError, TrainingError, reason_of
from nas_optuna.lazily import lazily

with lazily():
    import onnx
    import onnxruntime
    from numpy.typing import NDArray
    from onnx import TensorProto, helper, shape_inference
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

_INTEGER = ("Conv", "Gemm", "MatMul", "Add")
"""Operations that ONNX Runtime computes in eight bits, so that their output is an integer."""
_BLOCK = 16
"""Size of the blocks in which ONNX Runtime lays channels out on x86 processors."""
CALIBRATION_IMAGES = 256
"""How many training images are used to find the ranges of activations."""


def require_tools(need: str = "eight bits need") -> None:
    """Refuse what needs ONNX and ONNX Runtime if they are not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise SpecError(f"{need} two more packages: pip install 'nas-optuna[onnx]' ({error})") from None


def quantised(model: bytes, batches: Iterable[NDArray[Any]], *, inner: bool = False, kept: Sequence[str] = ()) -> bytes:
    """An ONNX model of one input in eight bits, with a scale for each channel of a weight, calibrated on batches."""
    # Weights are signed and activations unsigned. With signed activations, ONNX Runtime on an x86 processor computes a
    # layer whose output is read twice (by an addition, or a SiLU) in full precision, which takes several times as long.
    # An inner model ends without the conversion of its output, with which the next layer begins. Nodes in `kept` stay
    # as they are.
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self._feeds = iter({name: batch} for batch in batches)

        def get_next(self) -> Any:
            return next(self._feeds, None)

    try:
        loaded = onnx.load_model_from_string(model)
        _give_each_its_own_weights(loaded.graph)
        with tempfile.TemporaryDirectory() as folder, _quiet():
            out = Path(folder) / "int8.onnx"
            quantize_static(
                loaded,
                str(out),
                Reader(loaded.graph.input[0].name),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(kept),
            )
            made = onnx.load(str(out))
        _pool_in_full_precision(made)
        if inner:
            _cut_end(made)
        return bytes(made.SerializeToString())
    except Exception as error:  # whatever ONNX Runtime's tool raises
        raise TrainingError(f"ONNX Runtime cannot quantise this network: {reason_of(error, 200)}") from error


def _give_each_its_own_weights(graph: onnx.GraphProto) -> None:
    """Undo the sharing of equal tensors, such as zero biases, by which torch's exporter turns copies into nodes.

    ONNX Runtime does not recognise a bias behind such a node, and computes the layer in full precision.
    """
    weights = {weight.name: weight for weight in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in weights]:
        copied = TensorProto()
        copied.CopyFrom(weights[node.input[0]])
        copied.name = node.output[0]
        graph.initializer.append(copied)
        graph.node.remove(node)


def _pool_in_full_precision(model: onnx.ModelProto) -> None:
    """Compute average pooling in full precision where that is faster: if all blocks of channels are full.

    ONNX Runtime would fuse the pooling with the conversions around it; a maximum of one tensor, which changes nothing,
    hides the pattern.
    """
    channels = {
        value.name: value.type.tensor_type.shape.dim[1].dim_value
        for value in shape_inference.infer_shapes(model).graph.value_info
        if len(value.type.tensor_type.shape.dim) == 4
    }
    graph = model.graph
    for place, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "AveragePool" and channels.get(node.input[0], 1) % _BLOCK == 0:
            average = f"{node.output[0]}_average"
            graph.node.insert(place + 1, helper.make_node("Max", [average], [node.output[0]], name=f"{node.name}_Max"))
            node.output[0] = average


def _cut_end(model: onnx.ModelProto) -> None:
    """Remove the conversion of the output to integers and back, with which the next layer of a network begins."""
    graph = model.graph
    gives = graph.output[0].name
    makers = {name: node for node in graph.node for name in node.output}
    back = makers[gives]
    there = makers.get(back.input[0]) if back.op_type == "DequantizeLinear" else None
    if there is None or there.op_type != "QuantizeLinear":
        return
    if any(there.output[0] in node.input for node in graph.node if node != back):
        return
    made = makers[there.input[0]]
    graph.node.remove(back)
    if made.op_type in _INTEGER:
        graph.output[0].name = there.output[0]
        graph.output[0].type.tensor_type.elem_type = TensorProto.UINT8
    else:
        graph.node.remove(there)
        graph.output[0].name = there.input[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tool's advice, which is about its own options."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(3)
    try:
        yield
    finally:
        logging.disable(before)
        onnxruntime.set_default_logger_severity(2)
