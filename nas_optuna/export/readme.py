"""``README.md`` of an exported network: what it is, how well it does, and how to use each file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

from nas_optuna.export.formats import FORMATS
from nas_optuna.markdown import code, plain
from nas_optuna.spaces import SPACES
from nas_optuna.training import ImageClassifier

READER = "picture.py"
"""The file that reads pictures as the training did."""

_USES = {
    "model.py": """## model.py: plain torch

Its layers are written out. The network needs torch alone; to read pictures, also Pillow and NumPy.

```
python model.py image.png
```
""",
    "model.onnx": """## model.onnx: ONNX Runtime

```python
import json
import numpy as np
import onnxruntime
{imported}
session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
images = {image}  # uint8 [n, {channels}, {height}, {width}]
(logits,) = session.run(None, {{"images": images}})
print(classes[logits[0].argmax()])
```
""",
    "model.int8.onnx": """## model.int8.onnx: eight bits

It is used as `model.onnx` is: weights and activations are eight-bit integers inside, the input is the same.
""",
    "model.pt2": """## model.pt2: torch.export

```python
import json
import numpy as np
import torch
{imported}
extra = {{"classes.json": ""}}
network = torch.export.load("model.pt2", extra_files=extra).module()
classes = json.loads(extra["classes.json"])
images = {image}  # uint8 [n, {channels}, {height}, {width}]
print(classes[network(torch.from_numpy(images)).argmax(1).item()])
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


def _foreign(name: str) -> str:
    """What a format of somebody else's says of itself."""
    return f"## {plain(name)}\n\n{plain(inspect.getdoc(FORMATS.find(name)) or '')}\n"


def write_readme(
    classifier: ImageClassifier,
    title: str,
    facts: Mapping[str, str],
    files: Sequence[str],
    left_out: Mapping[str, str],
    images: int,
) -> str:
    """The text of ``README.md``."""
    channels, height, width = classifier.image_shape
    rows, columns = classifier.pixels.input_size
    parameters = sum(parameter.numel() for parameter in classifier.network.parameters())
    values = {"channels": channels, "height": height, "width": width, "imported": "", "space": ""}
    values["image"] = f"np.zeros((1, {channels}, {height}, {width}), np.uint8)"
    if READER in files:
        values["imported"] = "from picture import PIXELS, read_picture\n"
        values["image"] = 'np.stack([read_picture("image.png", PIXELS)])'
    if SPACES.is_code(classifier.header.space):  # which is not installed with us
        values["space"] = ", space=space"
    classes = ", ".join(classifier.classes[:20]) + (", …" if len(classifier.classes) > 20 else "")
    lines = [
        f"# {plain(title)}",
        "",
        f"An image classifier: raw pixels, uint8 of 0 … 255, `[n, {channels}, {height}, {width}]`, to logits of"
        f" {len(classifier.classes)} classes. It normalises the pixels and resizes them to {rows}×{columns}"
        " (height×width) itself.",
        *(
            [f"`{READER}` makes such pixels of a picture file exactly as the training did; it needs Pillow and NumPy."]
            if READER in files
            else []
        ),
        "",
        "| | |",
        "|---|---|",
        f"| architecture | {code(classifier.architecture, in_table=True)} |",
        f"| parameters | {parameters:,} |",
        *(f"| {plain(name)} | {plain(value)} |" for name, value in facts.items()),
        f"| classes | {plain(classes)} |",
        "",
        f"All files in full precision gave the same logits on {images} images when they were written.",
        "",
        *(_USES[name].format(**values) for name in _USES if name in files),
        *(_foreign(name) for name in FORMATS.names() if name in files and name not in _USES),
        *(f"{code(name)} was not written: {code(reason)}\n" for name, reason in left_out.items()),
    ]
    return "\n".join(lines)
