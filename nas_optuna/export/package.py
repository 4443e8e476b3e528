"""Write a trained network in every form, check that their outputs agree, and describe them in a README."""

from __future__ import annotations

import copy
import inspect
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_optuna.errors import DataError, TrainingError, describe_error, shortened
from nas_optuna.export.formats import FORMATS
from nas_optuna.export.int8 import FILE as INT8
from nas_optuna.export.int8 import EightBits, Int8Export, write_int8
from nas_optuna.export.script import write_reader
from nas_optuna.export.source import NotWritable
from nas_optuna.files import SCRATCH, scratch_folder
from nas_optuna.markdown import code, plain
from nas_optuna.training import ImageClassifier
from nas_optuna.training.serialization import loading_call

TOLERANCE = 1e-5
"""The largest difference of logits between two forms, relative to the largest logit if that is above 1."""

CHECKED_IMAGES = 100

WEIGHTS = "model.safetensors"
"""The one file that is always written."""

MARK = ".nas-optuna-export"
"""The file that marks a folder as an earlier export, and lists the files that may be replaced."""


@dataclass(frozen=True)
class Exported:
    """The result of an export."""

    folder: Path
    files: tuple[str, ...]  # their names
    left_out: Mapping[str, str]  # names of files that were not written, each with the reason in one line
    images: int  # on which all forms were compared; 0 if there are only the weights
    difference: float  # the largest between their logits
    int8: Int8Export | None = None  # accuracy, size and latency in eight bits, if that was requested

    def to_dict(self) -> dict[str, Any]:
        """Everything, JSON-ready."""
        return {name: value for name, value in asdict(self).items() if value is not None} | {"folder": str(self.folder)}

    @property
    def omissions(self) -> list[str]:
        """A line for each reason for which files were not written."""
        return _omissions(self.left_out, str)


def export_network(
    classifier: ImageClassifier,  # on the CPU
    folder: Path,  # is created; it must be empty or an earlier export, in which files of others stay
    images: Tensor,  # raw ones to compare on, of which at most `CHECKED_IMAGES` are used
    *,
    title: str,  # in one line
    facts: Mapping[str, str],  # for the README by name, e.g. its accuracy
    drawing: str | None = None,  # the network as SVG, written as ``drawing.svg``
    eight_bits: EightBits | None = None,  # for ``model.int8.onnx``, if that is wanted
    say: Callable[[str], None] = lambda line: None,  # told each file that is written: large networks take minutes
) -> Exported:
    """Write ``model.safetensors``, ``model.py``, ``model.pt2``, ``model.onnx``, ``picture.py`` and ``README.md``."""
    # Formats that other packages have registered are written as well. Each file is run on the images and compared
    # before it is kept. A form that cannot be made is left out, with the reason.
    ours = files_of_ours(folder)
    classifier = classifier.eval()
    raw = classifier.resized(images[:CHECKED_IMAGES].cpu())
    if eight_bits:
        eight_bits = replace(eight_bits, images=classifier.resized(eight_bits.images.cpu()))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Where files need only be renamed, so that no half-written one ever appears: a folder that is there may be a
        # mount, or the only one that may be written to.
        with scratch_folder(folder if folder.is_dir() else folder.parent) as place:
            written, left_out, largest = _write_forms(classifier, raw, place, title, say)
            compared = 0 if written == [WEIGHTS] else len(raw)
            small = write_int8(place, eight_bits) if eight_bits else None
            if small:
                written.append(INT8)
                facts = {**facts, f"accuracy of model.onnx and {INT8}": small.sentence}
            texts = {READER: write_reader(classifier)} if classifier.pixels.reads_pictures else {}
            readme = write_readme(classifier, title, facts, [*written, *texts], left_out, compared)
            if drawing is not None:
                readme += "\n![The network](drawing.svg)\n"
                texts["drawing.svg"] = drawing
            texts["README.md"] = readme
            for name, text in texts.items():
                (place / name).write_text(text, encoding="utf-8")
            _publish(place, folder, [*written, *texts], ours)
    except OSError as error:
        raise DataError(f"cannot write to {folder}: {error.strerror}; choose another folder") from error
    return Exported(folder, (*written, *texts), left_out, compared, largest, small)


def _write_forms(
    classifier: ImageClassifier, raw: Tensor, place: Path, title: str, say: Callable[[str], None]
) -> tuple[list[str], dict[str, str], float]:
    """Write the network in every possible form, and compare each."""
    with torch.inference_mode():
        expected = classifier(raw)
    names, unstable = FORMATS.names(), _unstable(classifier, raw, expected)
    left_out, largest = {}, 0.0
    for number, name in enumerate(names, start=1):
        if unstable and name != WEIGHTS:
            left_out[name] = unstable
            continue
        say(f"{number}/{len(names)}: {name}" + ("" if unstable else f", compared on {len(raw)} images"))
        try:
            # What somebody else's format does to the network or the images must not reach the other forms.
            given = (classifier, raw) if name in FORMATS.builtin else copy.deepcopy((classifier, raw))
            run = FORMATS.find(name)(*given, place / name, title)
            if not (place / name).is_file():
                raise NotWritable("its format wrote no file of this name")
            if name != WEIGHTS:  # which are the network itself
                largest = max(largest, _compared(run, raw, expected))
        except (Exception, SystemExit) as error:
            if name == WEIGHTS or (name in FORMATS.builtin and isinstance(error, OSError) and error.errno):
                raise  # a full disk; the failure of any other form must not cost the others
            if not (place / name).is_dir():
                (place / name).unlink(missing_ok=True)
            left_out[name] = str(error) if isinstance(error, NotWritable | TrainingError) else describe_error(error)
    return [name for name in names if name not in left_out], left_out, largest


def files_of_ours(folder: Path) -> frozenset[str]:
    """The files of an earlier export, which may be replaced; a `DataError` if the folder is not one."""
    try:
        if not folder.is_dir():
            if folder.exists() or folder.is_symlink():
                raise DataError(f"{folder} is a file; choose another folder")
            return frozenset()
        if all(path.name.startswith(SCRATCH) and path.name != MARK for path in folder.iterdir()):
            return frozenset()  # but for what a killed export may have left
        listed = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        listed = None
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    if not names:
        raise DataError(f"{folder} holds files that nas-optuna export did not write; choose an empty or a new folder")
    return frozenset(name for name in names if name == Path(name).name)


def _publish(place: Path, folder: Path, names: list[str], ours: frozenset[str]) -> None:
    """Move complete files to their places, and remove those that only an earlier export wrote."""
    folder.mkdir(exist_ok=True)
    if foreign := [name for name in names if name not in ours and os.path.lexists(folder / name)]:
        raise DataError(f"{folder / foreign[0]} was not written by nas-optuna export; choose another folder")
    _mark(place, folder, {*names, *ours})  # first, so that a half-replaced folder can be replaced again
    for name in names:
        os.replace(place / name, folder / name)
    for name in ours - set(names):
        (folder / name).unlink(missing_ok=True)
    _mark(place, folder, names)  # a file that somebody gives the name of a removed one is theirs
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)


def _mark(place: Path, folder: Path, names: Iterable[str]) -> None:
    (place / MARK).write_text(json.dumps(sorted(names)), encoding="utf-8")
    os.replace(place / MARK, folder / MARK)


def _compared(run: Callable[[Tensor], Tensor], raw: Tensor, expected: Tensor) -> float:
    """The largest difference of logits, for the whole batch and for a single image."""
    largest = 0.0
    scale = max(1.0, expected.abs().max().item())
    for count in dict.fromkeys((len(raw), 1)):
        with torch.inference_mode():
            found = run(raw[:count])
        difference = (found - expected[:count]).abs().max().item()
        if found.shape != expected[:count].shape or not difference <= TOLERANCE * scale:
            raise NotWritable(f"its logits differ by {difference:.1e} from the network's on {count} images")
        largest = max(largest, difference)
    return largest


def _unstable(classifier: ImageClassifier, raw: Tensor, expected: Tensor) -> str:
    """Why no other form can be compared with a network; empty if they can."""
    if not expected.isfinite().all():
        return "the network's logits are not finite numbers"
    try:
        _compared(classifier, raw, expected)
    except Exception:  # batch normalisation may refuse a single image
        return (
            "the network's logits for an image depend on the other images or on chance (attention without"
            " batch_first=True, F.dropout without training=self.training, BatchNorm without running statistics)"
        )
    return ""


def _omissions(left_out: Mapping[str, str], quoted: Callable[[str], str]) -> list[str]:
    names = {why: [quoted(name) for name in left_out if left_out[name] == why] for why in left_out.values()}
    return [
        f"{', '.join(found)} {'was' if len(found) == 1 else 'were'} not written: {quoted(why)}"
        for why, found in names.items()
    ]


READER = "picture.py"
"""The file that reads pictures in the same way as the training."""

_USES = {
    "model.py": """## model.py: plain torch

Its layers are written out. The network needs torch alone{reading}.

```
{call}
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

{also}With nas-optuna installed:

```python
import nas_optuna

network = {loading}
names = network.predict({given}
print(names)
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
    """The text of ``README.md``."""
    channels, height, width = classifier.image_shape
    rows, columns = classifier.pixels.input_size
    parameters = sum(parameter.numel() for parameter in classifier.network.parameters())
    values = {"channels": channels, "height": height, "width": width, "imported": ""}
    values["image"] = f"np.zeros((1, {channels}, {height}, {width}), np.uint8)"
    zeros = f"torch.zeros(1, {channels}, {height}, {width}, dtype=torch.uint8)"
    values |= {"reading": "", "call": f'python -c "import torch, model; print(model.load()({zeros}))"'}
    values["given"] = f"images)  # uint8 [n, {channels}, {height}, {width}]"
    if READER in files:
        values |= {"reading": "; to read pictures, also Pillow and NumPy", "call": "python model.py image.png"}
        values["given"] = '"image.png")'
        values["imported"] = "from picture import PIXELS, read_picture\n"
        values["image"] = 'np.stack([read_picture("image.png", PIXELS)])'
    values["also"] = "`model.py` reads them. " if "model.py" in files else ""
    values["loading"] = loading_call(classifier.header.space, "model.safetensors")
    classes = ", ".join(classifier.classes[:20]) + (", …" if len(classifier.classes) > 20 else "")
    lines = [
        f"# {plain(shortened(title, 80))}",
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
        *(
            [f"All files in full precision gave the same logits on {images} images when they were written.", ""]
            if images
            else []
        ),
        *(_USES[name].format(**values) for name in _USES if name in files),
        *(
            f"## {plain(name)}\n\n{plain(inspect.getdoc(FORMATS.find(name)) or '')}\n"
            for name in FORMATS.names()
            if name in files and name not in _USES
        ),
        *(f"{line}\n" for line in _omissions(left_out, code)),
    ]
    return "\n".join(lines)
