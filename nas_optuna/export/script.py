"""``model.py``: a network in plain torch that reads its weights and classifies picture files, without this package."""

from __future__ import annotations

import json
import textwrap

from nas_optuna.export.source import Source
from nas_optuna.training import ImageClassifier

_HEAD = '''"""{title}

    python model.py image.png

Needs torch alone; with Pillow installed it reads every kind of picture, without it PNG files of 8 bits.
nas-optuna wrote this file. The weights are in model.safetensors beside it.
"""

import json
import re
import struct
import sys
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

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

_PREPARE = {
    "stretch": '''def prepare(images):
    """Scale to 0 … 1, normalise and resize."""
    x = normalise(images.float() / 255)
    return resize(x, INPUT_SIZE)
''',
    "crop": '''def prepare(images):
    """Scale to 0 … 1, normalise, crop the centre and resize."""
    x = normalise(images.float() / 255)
    return resize(x[:, :, {top} : {bottom}, {left} : {right}], INPUT_SIZE)
''',
    "pad": '''def prepare(images):
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
             "I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}
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
    """A picture file as [1, CHANNELS, HEIGHT, WIDTH], uint8."""
    try:
        from PIL import Image, ImageOps
    except ImportError:
        pixels = read_png(path)
    else:
        picture = ImageOps.exif_transpose(Image.open(path))
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        picture = picture.convert("L" if CHANNELS == 1 else "RGB")
        pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
        pixels = pixels.view(picture.height, picture.width, CHANNELS).permute(2, 0, 1)[None]
    return fit(pixels)


def fit(pixels):
    """[1, CHANNELS, height, width] of any size to the size that the network was trained on."""
    if tuple(pixels.shape[2:]) == (HEIGHT, WIDTH):
        return pixels
    _, _, height, width = pixels.shape
    mode = RESIZE_POLICY
    if mode == "crop":
        used_height = min(height, max(1, round(width * HEIGHT / WIDTH)))
        used_width = min(width, max(1, round(height * WIDTH / HEIGHT)))
        top, left = (height - used_height) // 2, (width - used_width) // 2
        pixels = pixels[:, :, top : top + used_height, left : left + used_width]
    inner = (HEIGHT, WIDTH)
    if mode == "pad":
        inner = (min(HEIGHT, max(1, round(WIDTH * height / width))), min(WIDTH, max(1, round(HEIGHT * width / height))))
    pixels = resize(pixels.float(), inner).round().clamp(0, 255).to(torch.uint8)
    top, left = (HEIGHT - inner[0]) // 2, (WIDTH - inner[1]) // 2
    return F.pad(pixels, (left, WIDTH - inner[1] - left, top, HEIGHT - inner[0] - top))


def read_png(path):
    """The pixels of a PNG file of 8 bits, for where Pillow is not installed: [1, CHANNELS, height, width], uint8."""
    data, place, packed, palette = Path(path).read_bytes(), 8, b"", b""
    if data[:8] != b"\\x89PNG\\r\\n\\x1a\\n":
        sys.exit(f"{path} is not a PNG file; pip install pillow to read other kinds")
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        part = data[place + 8 : place + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", part)
        packed += part if kind == b"IDAT" else b""
        palette = part if kind == b"PLTE" else palette
        place += length + 12
    if depth != 8 or interlaced:
        sys.exit(f"{path} is an unusual PNG file; pip install pillow to read it")
    size = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    stride, raw = width * size, zlib.decompress(packed)
    rows, above = [], bytearray(stride)
    for start in range(0, height * (stride + 1), stride + 1):
        kind, row = raw[start], bytearray(raw[start + 1 : start + 1 + stride])
        for i in range(stride if kind else 0):
            left, up = row[i - size] if i >= size else 0, above[i]
            corner = above[i - size] if i >= size else 0
            row[i] = (row[i] + [0, left, up, (left + up) // 2, nearest(left, up, corner)][kind]) % 256
        rows.append(row)
        above = row
    pixels = torch.frombuffer(bytearray().join(rows), dtype=torch.uint8).view(height, width, size)
    if colours == 3:
        pixels = torch.frombuffer(bytearray(palette), dtype=torch.uint8).view(-1, 3)[pixels[..., 0].long()]
    if colours in (4, 6):  # transparent parts become white
        alpha = pixels[..., -1:].float() / 255
        pixels = (pixels[..., :-1].float() * alpha + 255 * (1 - alpha)).round().to(torch.uint8)
    if CHANNELS == 1 and pixels.shape[2] == 3:  # brightness as Pillow has it
        weights = torch.tensor([19595, 38470, 7471])
        pixels = ((pixels.long() * weights).sum(2, keepdim=True) + 32768 >> 16).to(torch.uint8)
    return pixels.permute(2, 0, 1)[None].expand(1, CHANNELS, height, width).contiguous()


def nearest(left, up, corner):
    """The neighbour that comes nearest to left + up - corner, as the PNG format defines it."""
    estimate = left + up - corner
    return min((left, up, corner), key=lambda value: abs(estimate - value))


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python model.py image.png …")
    model = load()
    for file in sys.argv[1:]:
        with torch.inference_mode():
            shares = model(read_image(file)).softmax(1)[0]
        best = int(shares.argmax())
        print(f"{file}: {CLASSES[best]} ({shares[best]:.1%})")
'''


def write_script(classifier: ImageClassifier, source: Source, title: str) -> str:
    """The text of ``model.py``.

    Args:
        classifier: The network; its preparation and classes are written out.
        source: Its layers.
        title: One line for the head of the file.
    """
    header, prepare = classifier.header, classifier.prepare
    channels, height, width = classifier.image_shape
    top, left, used_height, used_width = prepare.crop
    head = _HEAD.format(
        title=_quoted(title),
        classes=json.dumps(list(classifier.classes)),
        shape=classifier.image_shape,
        size=prepare.input_size,
        mean=list(header.mean),
        std=list(header.std),
        channels=channels,
        height=height,
        width=width,
        count=len(classifier.classes),
        layers=textwrap.indent("\n".join(source.layers), " " * 8),
        steps=textwrap.indent("\n".join(source.steps), " " * 8),
    )
    rows, columns = prepare.input_size
    inner_height, inner_width = prepare.inner_size
    pad_top, pad_left = (rows - inner_height) // 2, (columns - inner_width) // 2
    policy = "pad" if prepare.pads else "crop" if (used_height, used_width) != (height, width) else "stretch"
    body = _PREPARE[policy].format(
        top=top,
        bottom=top + used_height,
        left=left,
        right=left + used_width,
        inner_height=inner_height,
        inner_width=inner_width,
        pad_top=pad_top,
        pad_bottom=rows - inner_height - pad_top,
        pad_left=pad_left,
        pad_right=columns - inner_width - pad_left,
    )
    return head + body + _TAIL.replace("RESIZE_POLICY", repr(header.resize))


def _quoted(text: str) -> str:
    """Text that cannot end the docstring that it stands in."""
    return " ".join(text.split()).replace("\\", "/").replace('"', "'")
