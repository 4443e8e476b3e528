"""Latency kits: a space's operations as ONNX files, with one Python file that measures them on another device."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_optuna.costs import timing
from nas_optuna.costs.latency import BESIDE, WHOLE_NETWORKS
from nas_optuna.costs.latency_table import least_networks, measurable_operations
from nas_optuna.digests import hex_digest
from nas_optuna.errors import SpecError, TableError, unknown
from nas_optuna.files import write_file
from nas_optuna.spaces import Operation, SearchSpace, Shape, require_operations
from nas_optuna.spaces.architecture import Architecture

if TYPE_CHECKING:
    import onnx
    from torch import nn

_SHARED_BYTES = 256
"""Weights of at least this many bytes are shared by all models."""
_WEIGHTS = {"fp32": "weights-fp32.bin", "int8": "weights-int8.bin"}


def write_kit(
    space: SearchSpace,
    folder: Path,
    *,
    precisions: Sequence[str] = timing.PRECISIONS,
    batch_size: int = 1,
    networks: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write a kit for a space, replacing an earlier one, and return the content of its ``kit.json``."""
    # All models share files of random weights, because only their latency matters. If the operations are too many or
    # cannot be measured alone, there are more whole networks instead.
    for precision in sorted(set(precisions) - set(timing.PRECISIONS)):
        raise SpecError(unknown("precision of a latency kit:", precision, timing.PRECISIONS))
    operations = measurable_operations(space, "onnxruntime")
    count = networks or (BESIDE if operations else WHOLE_NETWORKS)
    if not operations and count < (least := least_networks(space)):
        raise SpecError(f"a kit of space {space.name!r} needs at least {least} networks, to tell the latency of all")
    architectures = space.sample_distinct(count, random.Random(seed))
    total = len(precisions) * (len(operations) + len(architectures))
    try:
        _begin(folder)
        writer = _Writer(folder / "models", precisions, batch_size, lambda done: progress(done, total))
        described: dict[str, Any] = {"format": timing.FORMAT, "space": space.name, "batch_size": batch_size}
        kit = described | {"precisions": list(precisions)} | _written(space, operations, architectures, writer)
        kit["reference"] = next(iter((kit["operations"] or kit["networks"]).values()))[precisions[0]]
        kit["id"] = hex_digest(json.dumps(kit, sort_keys=True), 16)
        shutil.copyfile(timing.__file__, folder / "measure.py")
        write_file(folder / "kit.json", json.dumps(kit, indent=1))
    except OSError as error:
        raise TableError(f"the kit cannot be written to {folder}: {error.strerror}") from error
    return kit


def _written(
    space: SearchSpace, operations: Sequence[Operation], architectures: Sequence[Architecture], writer: _Writer
) -> dict[str, Any]:
    """The files of all operations and networks; those that end in logits convert them themselves."""
    files: dict[str, Any] = {"operations": {}, "networks": {}}
    for operation in operations:
        inner = operation.output_shape != (space.classes,)
        files["operations"][operation.key] = writer.add(operation.make, operation.input_shape, inner=inner)
    for architecture in architectures:
        keys = [o.key for o in require_operations(space, "a kit").operations(architecture)] if operations else []
        written = writer.add(partial(space.build, architecture), space.input_shape, inner=False)
        files["networks"][str(architecture)] = {**written, "operations": keys}
    writer.end()
    return files


def _begin(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise TableError(f"{folder} is a file; choose a folder for the kit: --out (folder)")
    inside = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if inside and not (inside >= {"kit.json", "measure.py"} or inside == {"models"}):
        raise TableError(f"{folder} holds something else than a latency kit; choose a new or empty one: --out (folder)")
    shutil.rmtree(folder / "models", ignore_errors=True)
    (folder / "models").mkdir(parents=True)


class _Writer:
    """Writes models that share their weights; equal models are written once."""

    def __init__(self, folder: Path, precisions: Sequence[str], batch_size: int, told: Callable[[int], None]) -> None:
        self._folder, self._precisions, self._batch_size, self._told = folder, precisions, batch_size, told
        self._longest = dict.fromkeys(_WEIGHTS, 0)
        self._count = 0

    def add(self, build: Callable[[], nn.Module], shape: Shape, *, inner: bool) -> dict[str, str]:
        """The file of a module in each precision; see `quantised` for `inner`."""
        import torch

        from nas_optuna.costs.quantise import quantised
        from nas_optuna.costs.runtimes import to_onnx
        from nas_optuna.randomness import seeded

        with seeded(0):
            module, images = build().eval(), torch.randn(self._batch_size, *shape)
        model = to_onnx(module, images)
        files = {}
        for precision in self._precisions:
            wanted = quantised(model, [images.numpy()], inner=inner) if precision == "int8" else model
            files[precision] = f"models/{self._written(wanted)}"
            self._count += 1
            self._told(self._count)
        return files

    def _written(self, model: bytes) -> str:
        import onnx

        loaded = onnx.load_model_from_string(model)
        for weight in loaded.graph.initializer:
            self._share(weight)
        content = loaded.SerializeToString()
        name = f"{hex_digest(content, 16)}.onnx"
        (self._folder / name).write_bytes(content)
        return name

    def _share(self, weight: onnx.TensorProto) -> None:
        """Replace a large tensor by the beginning of its type's file of weights."""
        from onnx import TensorProto

        kinds: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.INT8: "int8"}
        size = len(weight.raw_data)
        if size < _SHARED_BYTES or weight.data_type not in kinds:
            return
        kind = kinds[weight.data_type]
        self._longest[kind] = max(self._longest[kind], size)
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in (("location", _WEIGHTS[kind]), ("offset", "0"), ("length", str(size))):
            weight.external_data.add(key=key, value=value)

    def end(self) -> None:
        """Write the weights, which are random."""
        import numpy as np

        rng = np.random.default_rng(0)
        floats = (rng.standard_normal(self._longest["fp32"] // 4 + 1) * 0.05).astype(np.float32)
        integers = rng.integers(-127, 128, self._longest["int8"] + 1, dtype=np.int8)
        (self._folder / _WEIGHTS["fp32"]).write_bytes(floats.tobytes())
        (self._folder / _WEIGHTS["int8"]).write_bytes(integers.tobytes())
