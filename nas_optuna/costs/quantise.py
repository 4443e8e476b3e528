"""ONNX models in eight bits, by ONNX Runtime's own static quantisation."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

_INTEGER = ("Conv", "Gemm", "MatMul", "Add")
"""Operations that ONNX Runtime computes in eight bits, so that their output is an integer."""


def quantised(model: bytes, batches: Iterable[NDArray[Any]], *, inner: bool = False, kept: Sequence[str] = ()) -> bytes:
    """A model whose weights and activations are signed eight-bit integers, each weight's channel with its own scale."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    loaded = onnx.load_model_from_string(model)
    name = loaded.graph.input[0].name
    feeds = iter({name: batch} for batch in batches)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(feeds, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        out = Path(folder) / "int8.onnx"
        quantize_static(
            loaded,
            str(out),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(kept),
        )
        made = onnx.load(str(out))
    if inner:
        _cut_end(made)
    return bytes(made.SerializeToString())


def _cut_end(model: onnx.ModelProto) -> None:
    """Remove the conversion of the output to integers and back: the layer that follows in a network begins with it."""
    from onnx import TensorProto

    graph = model.graph
    gives = graph.output[0].name
    makers = {name: node for node in graph.node for name in node.output}
    back = makers[gives]
    there = makers.get(back.input[0]) if back.op_type == "DequantizeLinear" else None
    if there is None or there.op_type != "QuantizeLinear" or _readers(graph, there.output[0]) != [back]:
        return
    made = makers[there.input[0]]
    graph.node.remove(back)
    if made.op_type in _INTEGER:
        graph.output[0].name = there.output[0]
        graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    else:
        graph.node.remove(there)
        graph.output[0].name = there.input[0]


def _readers(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    return [node for node in graph.node if name in node.input]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the tool's advice, which speaks of its own options."""
    import onnxruntime

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    onnxruntime.set_default_logger_severity(3)
    try:
        yield
    finally:
        logging.disable(before)
        onnxruntime.set_default_logger_severity(2)
