"""``README.md`` of an exported network: what it is, how well it does, and how to use each file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from nas_optuna.spaces import SPACES
from nas_optuna.training import ImageClassifier

_USES = {
    "model.py": """## model.py: plain torch

Its layers are written out. It needs torch alone; with Pillow it reads every kind of picture.

```
python model.py image.png
```
""",
    "model.onnx": """## model.onnx: ONNX Runtime

```python
import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
images = np.zeros((1, {channels}, {height}, {width}), np.uint8)  # raw pixels, 0 … 255
(logits,) = session.run(None, {{"images": images}})
print(classes[logits[0].argmax()])
```
""",
    "model.pt2": """## model.pt2: torch.export

```python
import json
import torch

extra = {{"classes.json": ""}}
network = torch.export.load("model.pt2", extra_files=extra).module()
classes = json.loads(extra["classes.json"])
images = torch.zeros(1, {channels}, {height}, {width}, dtype=torch.uint8)  # raw pixels, 0 … 255
print(classes[network(images).argmax(1).item()])
```
""",
    "model.safetensors": """## model.safetensors: the weights

`model.py` reads them. With nas-optuna installed:

```python
import nas_optuna

network = nas_optuna.load_network("model.safetensors"{space})
print(network.predict("image.png"))
```
""",
}


def write_readme(
    classifier: ImageClassifier,
    title: str,
    facts: Mapping[str, str],
    files: Sequence[str],
    left_out: Mapping[str, str],
    images: int,
) -> str:
    """The text of ``README.md``.

    Args:
        classifier: The network.
        title: What it is, in one line.
        facts: What a reader should know of it, by name.
        files: What was written beside it.
        left_out: What was not, with the reasons.
        images: How many images all files were compared on.
    """
    channels, height, width = classifier.image_shape
    rows, columns = classifier.prepare.input_size
    parameters = sum(parameter.numel() for parameter in classifier.network.parameters())
    space = ", space=space" if SPACES.is_code(classifier.header.space) else ""  # which is not installed with us
    lines = [
        f"# {_plain(title)}",
        "",
        f"An image classifier: raw pixels, uint8 of 0 … 255, `[n, {channels}, {height}, {width}]`, to logits of"
        f" {len(classifier.classes)} classes. It normalises the pixels and resizes them to {rows}×{columns} itself.",
        "",
        "| | |",
        "|---|---|",
        f"| architecture | `{classifier.architecture}` |",
        f"| parameters | {parameters:,} |",
        *(f"| {_plain(name)} | {_plain(value)} |" for name, value in facts.items()),
        f"| classes | {_plain(', '.join(classifier.classes[:20]))}{', …' if len(classifier.classes) > 20 else ''} |",
        "",
        f"All files gave the same logits on {images} images when they were written.",
        "",
        *(
            _USES[name].format(channels=channels, height=height, width=width, space=space)
            for name in _USES
            if name in files
        ),
        *(f"`{name}` was not written: {_plain(reason)}\n" for name, reason in left_out.items()),
    ]
    return "\n".join(lines)


def _plain(text: str) -> str:
    """Text of users, without what Markdown would take for markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))
