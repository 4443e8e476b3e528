"""How well the costs ``arena`` and ``flash`` tell what TensorFlow Lite Micro needs.

Random networks of three spaces are built again in Keras, quantised to eight bits by TensorFlow's own converter, and run
once by TensorFlow Lite Micro's interpreter, which says what it has laid out in its arena: the plan of the activations
(the "head"), which ``arena`` counts, and its own tables beside it (the "tail"). TensorFlow does not go with this
package's environment, so it has one of its own:

    python -m venv tf && tf/bin/pip install tensorflow-cpu tflite-micro
    python benchmarks/arena.py --tensorflow tf/bin/python
"""

from __future__ import annotations

import argparse
import json
import operator
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

SPACES: dict[str, dict[str, Any]] = {
    "conv": {"depth": 3},
    "residual": {"width": 8, "stages": 2},
    f"{Path(__file__).parents[1] / 'examples' / 'my_space.py'}:network": {},
}
KEPT = {"relu", "add", "flatten"}


def described(network: Any) -> list[dict[str, Any]] | None:
    """The operators of a network, one after another; None where Keras is not told how to build one of them."""
    import torch
    from torch import fx, nn

    modules = dict(network.named_modules())
    made: list[dict[str, Any]] = []
    for node in fx.symbolic_trace(network).graph.nodes:
        inputs = [found.name for found in node.all_input_nodes]
        what: dict[str, Any] | None = None
        module = modules.get(str(node.target)) if node.op == "call_module" else None
        if node.op in ("placeholder", "output"):
            what = {"op": node.op}
        elif isinstance(module, nn.Conv2d) and module.groups in (1, module.in_channels):
            sizes = {"filters": module.out_channels, "kernel": module.kernel_size[0], "stride": module.stride[0]}
            what = {"op": "conv", **sizes, "padding": int(module.padding[0]), "depthwise": module.groups > 1}
        elif isinstance(module, nn.Linear):
            what = {"op": "linear", "units": module.out_features}
        elif isinstance(module, nn.MaxPool2d) or node.target is torch.nn.functional.max_pool2d:
            what = {"op": "maxpool", "ceil": bool(getattr(module, "ceil_mode", False))}
        elif isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
            what = {"op": "average" if isinstance(module, nn.AdaptiveAvgPool2d) else "max"}
        elif isinstance(module, nn.BatchNorm2d | nn.Identity | nn.Flatten | nn.ReLU):
            what = {"op": type(module).__name__.lower()}
        elif node.target in (operator.add, torch.nn.functional.relu):
            what = {"op": "add" if node.target is operator.add else "relu"}
        if what is None:
            return None
        made.append({"name": node.name, "inputs": inputs, **what})
    return made


def ask() -> None:
    """In TensorFlow's environment: the bytes of each network that is described on the standard input."""
    import numpy as np
    import tensorflow as tf
    from tflite_micro.python.tflite_micro import runtime

    for task in json.load(sys.stdin):
        model = _keras(task["operators"], task["shape"])
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        shape = (1, *task["shape"][1:], task["shape"][0])
        images = np.random.default_rng(0).standard_normal((8, *shape)).astype(np.float32)
        converter.representative_dataset = lambda images=images: ([image] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        content = converter.convert()
        interpreter = runtime.Interpreter.from_bytes(content, arena_size=1 << 24)
        interpreter.set_input(np.zeros(shape, np.int8), 0)
        interpreter.invoke()
        print(f"#{task['name']} {len(content)}", file=sys.stderr, flush=True)
        interpreter.print_allocations()


def _keras(operators: list[dict[str, Any]], shape: list[int]) -> Any:
    from keras import Model, layers

    made: dict[str, Any] = {}
    first: Any = None
    for o in operators:
        given = [made[name] for name in o["inputs"]]
        match o["op"]:
            case "placeholder":
                first = made[o["name"]] = layers.Input((*shape[1:], shape[0]))
                continue
            case "output":
                return Model(first, given[0])
            case "conv":
                x = layers.ZeroPadding2D(o["padding"])(given[0]) if _uneven(o) else given[0]
                kind = {
                    "kernel_size": o["kernel"],
                    "strides": o["stride"],
                    "padding": "valid" if _uneven(o) else "same",
                }
                layer = layers.DepthwiseConv2D(**kind) if o["depthwise"] else layers.Conv2D(o["filters"], **kind)
                made[o["name"]] = layer(x)
                continue
            case "maxpool":
                layer = layers.MaxPooling2D(2, padding="same" if o["ceil"] else "valid")
            case "average":
                layer = layers.GlobalAveragePooling2D(keepdims=True)
            case "max":
                layer = layers.GlobalMaxPooling2D(keepdims=True)
            case "batchnorm2d":
                layer = layers.BatchNormalization()
            case "linear":
                layer = layers.Dense(o["units"])
            case "add":
                layer = layers.Add()
            case "flatten":
                layer = layers.Flatten()
            case "relu":
                layer = layers.ReLU()
            case _:
                made[o["name"]] = given[0]
                continue
        made[o["name"]] = layer(given if o["op"] == "add" else given[0])
    raise ValueError("a network without an output")


def _uneven(o: dict[str, Any]) -> bool:
    """Whether a convolution pads otherwise than Keras' "same" does."""
    return bool(o["padding"] != o["kernel"] // 2 or o["stride"] > 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensorflow", help="a Python that has tensorflow and tflite-micro")
    parser.add_argument("--networks", type=int, default=8, help="of each space")
    parser.add_argument("--ask", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if given.ask:
        ask()
        return
    if not given.tensorflow:
        parser.error("name a Python that has tensorflow and tflite-micro: --tensorflow tf/bin/python")
    tasks = drawn(given.networks)
    command = [given.tensorflow, __file__, "--ask"]
    sent = json.dumps([{key: task[key] for key in ("name", "operators", "shape")} for task in tasks])
    said = subprocess.run(command, input=sent, capture_output=True, text=True, check=False)
    rows = read(said.stderr + said.stdout, {task["name"]: task for task in tasks})
    if not rows:
        sys.exit(f"error: TensorFlow told nothing: {said.stderr.strip().splitlines()[-1:]}")
    print(json.dumps(rows) if given.json else table(rows))


def drawn(count: int) -> list[dict[str, Any]]:
    """Random networks that Keras can be told of, with what our costs say of them."""
    import torch

    from nas_optuna.costs.microcontroller import arena_bytes, flash_bytes
    from nas_optuna.spaces import create_space

    tasks = []
    for name, options in SPACES.items():
        space = create_space(name, options, in_channels=1, classes=10, input_size=28)
        rng, of_space = random.Random(0), 0
        while of_space < count:
            with torch.device("meta"):
                network, image = space.build(space.sample(rng)).eval(), torch.empty(1, *space.input_shape)
            if (operators := described(network)) is None:
                continue
            of_space += 1
            figures = {"arena": arena_bytes(network, image), "flash": flash_bytes(network)}
            where = name.rpartition("/")[2]
            tasks.append({"name": f"{where}/{of_space}", "operators": operators, "shape": space.input_shape, **figures})
    return tasks


def read(said: str, tasks: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The interpreter's figures beside ours."""
    rows: list[dict[str, Any]] = []
    for line in said.splitlines():
        words = line.split()
        if line.startswith("#"):
            task = tasks[words[0][1:]]
            rows.append({"name": task["name"], "arena": task["arena"], "flash": task["flash"], "file": int(words[1])})
        elif rows and "Arena allocation head" in line:
            rows[-1]["head"] = int(words[words.index("head") + 1])
        elif rows and "Arena allocation tail" in line:
            rows[-1]["tail"] = int(words[words.index("tail") + 1])
    return [row for row in rows if "head" in row]


def table(rows: list[dict[str, Any]]) -> str:
    """The medians of each space."""
    lines = ["space                 networks  arena / TFLM's (lowest … highest)  its tables  flash / file"]
    for space in dict.fromkeys(row["name"].rpartition("/")[0] for row in rows):
        own = [row for row in rows if row["name"].startswith(f"{space}/")]
        arena = [row["arena"] / row["head"] for row in own]
        tail, flash = (
            statistics.median(row["tail"] for row in own),
            statistics.median(r["flash"] / r["file"] for r in own),
        )
        spread = f"{statistics.median(arena):.3f} ({min(arena):.3f} … {max(arena):.3f})"
        lines.append(f"{space:20}  {len(own):8}  {spread:33}  {tail / 1024:6.1f} KiB  {flash:12.3f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
