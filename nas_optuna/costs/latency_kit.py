"""Latency kits: a space's operations as ONNX files, with one Python file that measures them on another device."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nas_optuna.costs import timing
from nas_optuna.costs.latency import BESIDE, WHOLE_NETWORKS
from nas_optuna.costs.latency_table import least_networks, measurable_operations
from nas_optuna.costs.quantise import quantised
from nas_optuna.costs.runtimes import to_onnx
from nas_optuna.digests import hex_digest
from nas_optuna.errors import SpecError, TableError, needing_every_network, unknown
from nas_optuna.files import write_file
from nas_optuna.lazily import lazily
from nas_optuna.spaces import SearchSpace, require_operations

with lazily():
    import numpy as np
    import onnx
    import torch
    from onnx import TensorProto
    from torch import nn

    from nas_optuna.randomness import seeded

_SHARED_BYTES = 256
"""Weights of at least this many bytes are shared by all models."""
_MODEL = re.compile(r"[0-9a-f]{16}\.onnx|weights-(fp32|int8)\.bin")
"""The names of the files of models."""
_PARTIAL = re.compile(r"\.nas-optuna-.+\.json")
"""What a killed `write_file` leaves of ``kit.json``."""
_WEIGHTS = {"fp32": "weights-fp32.bin", "int8": "weights-int8.bin"}


def write_kit(
    space: SearchSpace,
    folder: Path,
    *,
    precisions: Sequence[str] = timing.PRECISIONS,
    batch_size: int = 1,
    networks: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write a kit for a space, replacing an earlier one, and return the content of its ``kit.json``."""
    # All models share files of random weights, because only their latency matters. If the operations are too many or
    # cannot be measured alone, there are more whole networks instead.
    for precision in sorted(set(precisions) - set(timing.PRECISIONS)):
        raise SpecError(unknown("precision of a latency kit:", precision, timing.PRECISIONS))
    with needing_every_network("a latency kit"):
        operations = measurable_operations(space, "onnxruntime")
    count = networks or (BESIDE if operations else WHOLE_NETWORKS)
    if not operations and count < (least := least_networks(space)):
        raise SpecError(f"a kit of space {space.name!r} needs at least {least} networks, to tell the latency of all")
    architectures = space.sample_distinct(count, random.Random(0))
    # Modules that end in logits convert these themselves.
    modules = {
        ("operations", op.key): (op.make, op.input_shape, op.output_shape != (space.classes,)) for op in operations
    }
    modules |= {
        ("networks", str(each)): (partial(space.build, each), space.input_shape, False) for each in architectures
    }
    described: dict[str, Any] = {"format": timing.FORMAT, "space": space.name, "batch_size": batch_size}
    kit: dict[str, Any] = {**described, "precisions": list(precisions), "operations": {}, "networks": {}}
    longest = dict.fromkeys(_WEIGHTS, 0)
    try:
        _begin(folder)
        for done, ((kind, key), (build, shape, inner)) in enumerate(modules.items(), start=1):
            with needing_every_network("a latency kit"):
                models = _models(build, (batch_size, *shape), precisions, inner)
                kit[kind][key] = {precision: _written(folder, model, longest) for precision, model in models}
            progress(done, len(modules))
        _write_weights(folder / "models", longest)
        for each in architectures:
            keys = [o.key for o in require_operations(space, "a kit").operations(each)] if operations else []
            kit["networks"][str(each)]["operations"] = keys
        kit["reference"] = next(iter((kit["operations"] or kit["networks"]).values()))[precisions[0]]
        kit["id"] = hex_digest(json.dumps(kit, sort_keys=True), 16)
        shutil.copyfile(timing.__file__, folder / "measure.py")
        write_file(folder / "kit.json", json.dumps(kit, indent=1))
    except OSError as error:
        raise TableError(f"the kit cannot be written to {folder}: {error.strerror}") from error
    return kit


def _begin(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise TableError(f"{folder} is a file; choose a folder for the kit: --out (folder)")
    inside = {path.name for path in folder.iterdir()} if folder.exists() else set()
    inside = {name for name in inside if not _PARTIAL.fullmatch(name)}
    if inside and not (inside >= {"kit.json", "measure.py"} or _is_unfinished(folder, inside)):
        raise TableError(f"{folder} holds something else than a latency kit; choose a new or empty one: --out (folder)")
    shutil.rmtree(folder / "models", ignore_errors=True)
    (folder / "models").mkdir(parents=True)


def _is_unfinished(folder: Path, inside: set[str]) -> bool:
    """Whether a folder holds only what a kit that was not finished has written."""
    if not ({"models"} <= inside <= {"models", "measure.py"} and (folder / "models").is_dir()):
        return False
    models = [path.name for path in (folder / "models").iterdir()]
    return all(map(_MODEL.fullmatch, models)) and (bool(models) or "measure.py" not in inside)


def _models(
    build: Callable[[], nn.Module], shape: Sequence[int], precisions: Sequence[str], inner: bool
) -> Iterator[tuple[str, bytes]]:
    """A module as an ONNX model in each precision; see `quantised` for `inner`."""
    with seeded(0):
        module, images = build().eval(), torch.randn(*shape)
    model = to_onnx(module, images)
    for precision in precisions:
        yield precision, quantised(model, [images.numpy()], inner=inner) if precision == "int8" else model


def _written(folder: Path, model: bytes, longest: dict[str, int]) -> str:
    """The file of a model whose large tensors are the beginning of their type's file of weights."""
    kinds: dict[int, str] = {TensorProto.FLOAT: "fp32", TensorProto.INT8: "int8"}
    loaded = onnx.load_model_from_string(model)
    for weight in loaded.graph.initializer:
        size, kind = len(weight.raw_data), kinds.get(weight.data_type)
        if size >= _SHARED_BYTES and kind is not None:
            longest[kind] = max(longest[kind], size)
            weight.ClearField("raw_data")
            weight.data_location = TensorProto.EXTERNAL
            for key, value in (("location", _WEIGHTS[kind]), ("offset", "0"), ("length", str(size))):
                weight.external_data.add(key=key, value=value)
    content = loaded.SerializeToString()
    name = f"models/{hex_digest(content, 16)}.onnx"  # equal models are written once
    (folder / name).write_bytes(content)
    return name


def _write_weights(folder: Path, longest: Mapping[str, int]) -> None:
    """Write the weights that the models share, which are random."""
    rng = np.random.default_rng(0)
    floats = (rng.standard_normal(longest["fp32"] // 4 + 1) * 0.05).astype(np.float32)
    integers = rng.integers(-127, 128, longest["int8"] + 1, dtype=np.int8)
    (folder / _WEIGHTS["fp32"]).write_bytes(floats.tobytes())
    (folder / _WEIGHTS["int8"]).write_bytes(integers.tobytes())
