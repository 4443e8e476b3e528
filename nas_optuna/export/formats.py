"""The files that a network is exported to, by name.

A new one is a function here and a line in `FORMATS`; other packages register one in the entry point group
``nas_optuna.formats`` under the name of the file. The function takes the network, raw images ``[n, channels, height,
width]``, the path to write to, and a title. It returns a function from raw images to logits that runs the written file,
which is compared with the network before the file is kept. Its docstring appears in the export's README.
"""

from __future__ import annotations

import json
import runpy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_optuna.costs.runtimes import to_onnx
from nas_optuna.export.script import write_script
from nas_optuna.export.source import NotWritable
from nas_optuna.registry import Registry
from nas_optuna.training import ImageClassifier
from nas_optuna.training.serialization import save_network

FORMATS = Registry(
    "export format",
    "nas_optuna.formats",
    {
        "model.safetensors": "nas_optuna.export.formats:weights",
        "model.py": "nas_optuna.export.formats:script",
        "model.pt2": "nas_optuna.export.formats:program",
        "model.onnx": "nas_optuna.export.formats:onnx_model",
    },
    ("classifier", "images", "path", "title"),
)


def weights(classifier: ImageClassifier, images: Tensor, path: Path, title: str) -> Callable[[Tensor], Tensor]:
    """``model.safetensors``: the weights, with what is needed to load them."""
    save_network(path, classifier.network, classifier.header)
    return classifier


def script(classifier: ImageClassifier, images: Tensor, path: Path, title: str) -> Callable[[Tensor], Tensor]:
    """``model.py``: plain torch code, which loads the weights."""
    with torch.inference_mode():
        prepared = classifier.prepare(images[:2])
    text = write_script(classifier, prepared, title)
    path.write_text(text, encoding="utf-8")
    network: Callable[[Tensor], Tensor] = runpy.run_path(str(path))["load"]()  # our own text
    return network


def program(classifier: ImageClassifier, images: Tensor, path: Path, title: str) -> Callable[[Tensor], Tensor]:
    """``model.pt2``: a program of ``torch.export``."""
    example = torch.cat([images, images])[:2]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The tensor attributes? .* assigned during export")  # of recurrent layers
        warnings.filterwarnings("ignore", "No complete tensor found")  # of views; the weights are on the CPU
        exported = torch.export.export(classifier, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        torch.export.save(exported, path, extra_files={"classes.json": json.dumps(list(classifier.classes))})
    loaded: Any = torch.export.load(path).module()
    return lambda raw: loaded(raw)


def onnx_model(classifier: ImageClassifier, images: Tensor, path: Path, title: str) -> Callable[[Tensor], Tensor]:
    """``model.onnx``: for ONNX Runtime and other tools that read ONNX."""
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise NotWritable("it needs two more packages: pip install 'nas-optuna[onnx]'") from None
    header = classifier.header
    described = {"classes": json.dumps(list(classifier.classes)), "architecture": header.architecture}
    model = onnx.load_model_from_string(to_onnx(classifier, torch.cat([images, images])[:2], any_batch=True))
    onnx.helper.set_model_props(model, described)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is told as the reason
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda raw: torch.from_numpy(session.run(None, {"images": raw.numpy()})[0])
