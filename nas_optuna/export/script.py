"""``model.py``: a network in plain torch with its weights; and ``picture.py``, the reader of picture files."""

from __future__ import annotations

import inspect
import textwrap

from torch import Tensor

from nas_optuna.data import pixels as pixels_module
from nas_optuna.export.source import write_source
from nas_optuna.training import ImageClassifier

_HEAD = '''"""{title}

    {call}

The network needs torch alone{reading}
nas-optuna wrote this file. The weights are in model.safetensors beside it.
"""

import json
import re
import runpy
import struct
import sys
from math import inf, nan
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import device, nn

CLASSES = {classes}
CHANNELS, HEIGHT, WIDTH = {shape}  # of a raw image, as the network was trained on
INPUT_SIZE = {size}  # height and width that the layers see
MEAN, STD = {mean}, {std}  # of each channel, of pixels scaled to 0 … 1


class Network(nn.Module):
    """Raw images [batch, {channels}, {height}, {width}] (uint8) to logits [batch, {count}]."""

    def __init__(self):
        super().__init__()
{layers}

    def forward(self, images):
        x = prepare(images)
{steps}


'''

_PREPARE = {  # by whether a picture is padded to the shape of the input
    False: '''def prepare(images):
    """Scale to 0 … 1, normalise, take the centre and resize."""
    x = normalise(images.float() / 255)
    return resize(x[:, :, {top} : {bottom}, {left} : {right}], INPUT_SIZE)
''',
    True: '''def prepare(images):
    """Scale to 0 … 1, resize, pad with black and normalise."""
    x = resize(images.float() / 255, ({inner_height}, {inner_width}))
    return normalise(F.pad(x, ({pad_left}, {pad_right}, {pad_top}, {pad_bottom})))
''',
}

_TAIL = '''

def normalise(x):
    mean, std = (torch.tensor(values, device=x.device).view(1, CHANNELS, 1, 1) for values in (MEAN, STD))
    return (x - mean) / std


def resize(x, size):
    if tuple(x.shape[2:]) == tuple(size):
        return x
    shrinks = x.shape[2] > size[0] or x.shape[3] > size[1]
    return F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=shrinks)


def load(path=None):
    """The network with its weights."""
    tensors = read_safetensors(path or Path(__file__).with_name("model.safetensors"))
    # The file's names have dots where the attributes above have underscores.
    found = {re.sub(r"^(?=\\d)", "layer", name).replace(".", "_"): tensor for name, tensor in tensors.items()}
    network = Network()
    network.load_state_dict({name: found[name.replace(".", "_")] for name in network.state_dict()})
    return network.eval()


def read_safetensors(path):
    """Weights by name: a length, a JSON header and the numbers."""
    types = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
             "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
             "BOOL": torch.bool, "C64": torch.complex64}
    data = bytearray(Path(path).read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            part = torch.frombuffer(data[first:last] or bytearray(8), dtype=types[entry["dtype"]])
            tensors[name] = part[: 0 if first == last else None].reshape(entry["shape"]).clone()
    return tensors


def read_image(path):
    """A picture file as [1, CHANNELS, HEIGHT, WIDTH], uint8, exactly as in training."""
    reader = runpy.run_path(str(Path(__file__).with_name("picture.py")))
    pixels = reader["read_picture"](path, reader["PIXELS"])
    return torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8).view(1, CHANNELS, HEIGHT, WIDTH)


def main(files):
    getattr(sys.stdout, "reconfigure", dict)(errors="backslashreplace")  # a class may have any name
    if not files or files[0] in ("-h", "--help"):
        print("usage: python model.py image.png ...\\n\\nPrints the most probable class of each picture.")
        return 0 if files else 2
    if CHANNELS not in (1, 3):
        return f"this network takes no pictures, but uint8 [n, {CHANNELS}, {HEIGHT}, {WIDTH}]: model.load()(images)"
    try:
        model = load()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        return f"model.safetensors beside this file cannot be read: {one_line(error)}"
    refused = []
    for file in files:
        try:
            images = read_image(file)
        except ImportError as error:
            return f"to read pictures, {error.name} is needed: pip install pillow numpy"
        except Exception as error:  # a damaged picture can make its reader raise anything
            refused.append(f"{file} cannot be read: {one_line(error)}")
            continue
        with torch.inference_mode():
            shares = model(images).softmax(1)[0]
        best = int(shares.argmax())
        name = "".join(c if c.isprintable() or c in "\\u200c\\u200d" else "\\ufffd" for c in CLASSES[best])
        print(f"{file}: {name} ({shares[best]:.1%})")
    return "\\n".join(refused) or 0


def one_line(error):
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:300] or type(error).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''


def write_script(classifier: ImageClassifier, example: Tensor, title: str) -> str:
    """The text of ``model.py``."""
    pixels, fit = classifier.pixels, classifier.prepare.fit
    layers, steps = write_source(classifier.network, example)
    head = _HEAD.format(
        title=" ".join(title.split()).replace("\\", "/").replace('"', "'"),  # which cannot end its docstring
        call="python model.py image.png" if pixels.reads_pictures else "logits = load()(images)",
        reading="; picture files are read by picture.py, which needs Pillow and NumPy."
        if pixels.reads_pictures
        else ".",
        # Escaped beyond ASCII as Python does it; JSON would write two surrogates for one character.
        classes=ascii(list(classifier.classes)),
        shape=classifier.image_shape,
        size=pixels.input_size,
        mean=list(pixels.mean),
        std=list(pixels.std),
        channels=pixels.channels,
        height=pixels.height,
        width=pixels.width,
        count=len(classifier.classes),
        layers=textwrap.indent("\n".join(layers), " " * 8),
        steps=textwrap.indent("\n".join(steps), " " * 8),
    )
    rows, columns = pixels.input_size
    pad_top, pad_left = (rows - fit.inner_height) // 2, (columns - fit.inner_width) // 2
    body = _PREPARE[classifier.prepare.pads].format(
        top=fit.top,
        bottom=fit.top + fit.height,
        left=fit.left,
        right=fit.left + fit.width,
        inner_height=fit.inner_height,
        inner_width=fit.inner_width,
        pad_top=pad_top,
        pad_bottom=rows - fit.inner_height - pad_top,
        pad_left=pad_left,
        pad_right=columns - fit.inner_width - pad_left,
    )
    return head + body + _TAIL


def write_reader(classifier: ImageClassifier) -> str:
    """The text of ``picture.py``: the reader that the training used, with the network's `PixelFormat`."""
    return f"{inspect.getsource(pixels_module)}\n\nPIXELS = {classifier.pixels!r}\n"
