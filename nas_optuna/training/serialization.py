"""A trained network as one file: weights, architecture, and how images are prepared. Nothing in it is executed.

A file names a space that is built in or that an installed package registers, and its options are data. What it says is
checked before anything large is read or made.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nas_optuna.data import ImageSet
from nas_optuna.data.images import MOST_CLASSES
from nas_optuna.devices import resolve_device
from nas_optuna.errors import DataError, NasOptunaError
from nas_optuna.files import write_file
from nas_optuna.randomness import seeded
from nas_optuna.spaces import SPACES, SearchSpace, create_space
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.base import checked_input_size
from nas_optuna.spec import StudySpec
from nas_optuna.training.failure import describe
from nas_optuna.training.preparation import Preparation, as_batch, require_raw
from nas_optuna.training.soundness import require_tensors

FORMAT = 1
_KEY = "nas_optuna"
_MOST_METADATA = 16 * 2**20
"""Bytes; the names of 100,000 classes are a tenth of it."""
_MOST_NESTING = 8
_MOST_CHOICES = 1000
_LARGEST_SIDE = 4096
_LARGEST_NUMBER = 2**31
_BATCH = 256

_Side = Field(ge=1, le=_LARGEST_SIDE)


class Header(BaseModel):
    """What the file says beside its weights, JSON-ready."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    format: int = Field(ge=1)
    space: str = Field(min_length=1, max_length=200)
    space_options: dict[str, Any] = Field(max_length=100)
    architecture: str = Field(max_length=100_000)
    input_size: int | list[int]
    image_shape: list[int] = Field(min_length=3, max_length=3)
    classes: list[str] = Field(min_length=2, max_length=MOST_CLASSES)
    mean: list[float]
    std: list[float]
    resize: Literal["stretch", "crop", "pad"] = "stretch"

    def require_sound(self) -> None:
        """Check what no single field shows.

        Raises:
            ValueError: Naming the field.
        """
        sizes = self.input_size if isinstance(self.input_size, list) else [self.input_size]
        if len(sizes) not in (1, 2) or not all(1 <= side <= _LARGEST_SIDE for side in sizes):
            raise ValueError(f"input_size is {str(self.input_size)[:40]}")
        if not all(1 <= side <= _LARGEST_SIDE for side in self.image_shape):
            raise ValueError(f"image_shape is {str(self.image_shape)[:60]}")
        channels = self.image_shape[0]
        if len(self.mean) != channels or len(self.std) != channels or not all(value > 0 for value in self.std):
            raise ValueError(f"mean and std are not those of {channels} channels")
        _require_small(self.space_options)


class ImageClassifier(nn.Module):
    """A network that takes raw images. It can be traced, exported and pickled.

    Attributes:
        network: From prepared images to logits.
        prepare: From raw images to prepared ones.
        architecture: What it was built from.
        classes: What each output is called.
        image_shape: ``(channels, height, width)`` of a raw image.
    """

    def __init__(self, network: nn.Module, architecture: Architecture, header: Header) -> None:
        super().__init__()
        self.network = network
        self.architecture = architecture
        self.header = header
        self.classes = tuple(header.classes)
        channels, height, width = header.image_shape
        self.image_shape = (channels, height, width)
        size = checked_input_size(header.input_size)
        sides = (size, size) if isinstance(size, int) else size
        self.prepare = Preparation(self.image_shape, sides, header.mean, header.std, header.resize)

    def forward(self, images: Tensor) -> Tensor:
        """Raw images of the size trained on → logits.

        Args:
            images: ``[batch, channels, height, width]``, uint8.

        Returns:
            ``[batch, classes]``, float32.

        Raises:
            DataError: They are of another type or shape.
        """
        if not torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # a trace would keep the answer
            require_raw(images, self.image_shape)
        logits: Tensor = self.network(self.prepare(images))
        return logits

    @torch.inference_mode()
    def probabilities(self, images: Any) -> Tensor:
        """The probability of each class for each image.

        Args:
            images: uint8 tensor or array ``[n, channels, height, width]``, one image, a PIL image, a picture's path,
                or a list of these; see `as_batch`.

        Returns:
            ``[n, classes]``, float32, on the host; rows add up to 1.

        Raises:
            DataError: They are of another type or shape; the message says what is expected.
        """
        raw = as_batch(images, self.image_shape, self.header.resize)
        device = self.prepare.mean.device
        was_training = self.training
        self.eval()
        try:
            parts = [self(part.to(device)).float().softmax(1).cpu() for part in raw.split(_BATCH)]
        finally:
            self.train(was_training)
        return torch.cat(parts)

    def predict(self, images: Any) -> list[str]:
        """The most probable class of each image; a list of one for one image.

        Args:
            images: As `probabilities` takes them.

        Raises:
            DataError: They are of another type or shape; the message says what is expected.
        """
        return [self.classes[i] for i in self.probabilities(images).argmax(1).tolist()]


def make_header(architecture: Architecture, spec: StudySpec, images: ImageSet) -> Header:
    """What is kept beside a network's weights.

    Args:
        architecture: What it was built from.
        spec: Its `space` and `recipe.input_size` are kept.
        images: What it was trained on; their shape, classes and statistics are kept.
    """
    size = spec.recipe.input_size or images.side
    return Header(
        format=FORMAT,
        space=spec.space.name,
        space_options=json.loads(json.dumps(spec.space.options)),
        architecture=str(architecture),
        input_size=size if isinstance(size, int) else list(size),
        image_shape=list(images.images.shape[1:]),
        classes=list(images.classes),
        mean=list(images.mean),
        std=list(images.std),
        resize=images.resize,
    )


def save_network(path: Path, network: nn.Module, architecture: Architecture, spec: StudySpec, images: ImageSet) -> None:
    """Write a trained network.

    Args:
        path: A ``.safetensors`` file.
        network: Built by the spec's space.
        architecture: What it was built from.
        spec: Its `space` and `recipe.input_size` are kept.
        images: What it was trained on; their shape, classes and statistics are kept.

    Raises:
        DataError: The file cannot be written.
    """
    write_network(path, network, make_header(architecture, spec, images))


def write_network(path: Path, network: nn.Module, header: Header) -> None:
    """Write a network's weights and header; the file appears whole or not at all.

    Raises:
        DataError: The file cannot be written.
    """
    # A copy of each: safetensors refuses weights that share memory, and channels-last ones are not contiguous.
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    try:
        write_file(path, save(weights, {_KEY: header.model_dump_json()}))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def load_network(path: Path | str, device: str = "cpu", *, space: SearchSpace | None = None) -> ImageClassifier:
    """Read a network that `save_network` wrote. Nothing in the file is executed.

    Args:
        path: The file.
        device: Where its weights are put.
        space: The search space, where it is code of your own rather than built in or installed as a plugin.

    Raises:
        DataError: The file is missing, damaged, of another kind or a newer version, or its space is not installed.
        DeviceError: The device is not there.

    Example:
        >>> load_network("absent.safetensors")
        Traceback (most recent call last):
        ...
        nas_optuna.errors.DataError: 'absent.safetensors' is not a network that nas-optuna retrain wrote (no such file)
    """
    where = resolve_device(device)
    try:
        _require_file(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            header = _header(file.metadata() or {})
            found = {name: _outline(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118 - not a dict
            made = _space(header, space)
            architecture = made.parse(header.architecture)
            network = _built(made, architecture, found)
            weights = {name: file.get_tensor(name) for name in found}
        require_tensors(weights, network.state_dict())
        network.load_state_dict(weights)
        classifier = ImageClassifier(network, architecture, header)
    except Exception as error:  # a damaged file can make its readers raise anything
        shown = repr(str(path))
        shown = shown if len(shown) <= 160 else f"{shown[:80]}…{shown[-79:]}"
        raise DataError(f"{shown} is not a network that nas-optuna retrain wrote ({_reason(error)})") from error
    return classifier.to(where).eval()


def _require_file(path: Path | str) -> None:
    """Refuse what a reader would hang on or read without end: pipes, devices, a header larger than the file."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise ValueError("no such file") from None
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no regular file")
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if status.st_size < 8 or length > status.st_size - 8:
        raise ValueError("it is cut off, or of another format")
    if length > 2 * _MOST_METADATA:
        raise ValueError(f"its header has {length:,} bytes")


def _header(metadata: dict[str, str]) -> Header:
    if _KEY not in metadata:
        raise ValueError("it does not say of which architecture the weights are")
    text = metadata[_KEY]
    if len(text) > _MOST_METADATA:
        raise ValueError(f"its header has {len(text):,} bytes")
    try:
        given = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("its header is nested too deep") from None
    if isinstance(given, dict) and isinstance(given.get("format"), int) and given["format"] > FORMAT:
        raise ValueError("a newer nas-optuna wrote it; upgrade with pip install -U nas-optuna")
    header = Header.model_validate(given)
    header.require_sound()
    return header


def _refuse_constant(name: str) -> float:
    raise ValueError(f"its header holds {name}")


def _require_small(options: object, depth: int = 0) -> None:
    """Options are data: shallow, short, and without numbers that would take hours to count to."""
    if depth > _MOST_NESTING:
        raise ValueError("the options of its space are nested too deep")
    if isinstance(options, dict | list):
        if len(options) > _MOST_CHOICES:
            raise ValueError(f"an option of its space has {len(options):,} choices")
        for value in options.values() if isinstance(options, dict) else options:
            _require_small(value, depth + 1)
    elif isinstance(options, int) and abs(options) > _LARGEST_NUMBER:
        raise ValueError("an option of its space is too large a number")


def _space(header: Header, given: SearchSpace | None) -> SearchSpace:
    channels, classes, size = header.image_shape[0], len(header.classes), checked_input_size(header.input_size)
    if given is not None:
        if (given.in_channels, given.classes, checked_input_size(given.input_size)) != (channels, classes, size):
            raise ValueError(
                f"it is for {channels} channels, {classes} classes and input size {size}: make such a space"
            )
        return given
    if header.space not in SPACES:
        raise ValueError(
            f"its space {header.space[:80]!r} is neither built in nor installed; where it is code of your own, give it:"
            " load_network(file, space=...)"
        )
    return create_space(header.space, header.space_options, in_channels=channels, classes=classes, input_size=size)


def _built(space: SearchSpace, architecture: Architecture, found: dict[str, Tensor]) -> nn.Module:
    """The network, after its weights' shapes were compared with the file's, without memory for either."""
    try:
        with torch.device("meta"):
            outline = space.build(architecture)
    except Exception:
        if type(space).__module__.startswith("nas_optuna.spaces."):
            raise
        outline = None  # a plugin's network may look at its own weights while it is built
    if outline is not None:
        require_tensors(found, outline.state_dict())
    with seeded(0):
        return space.build(architecture)


_TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def _outline(part: Any) -> Tensor:
    """A tensor of the file's shape and type that has no memory."""
    kind = str(part.get_dtype())
    if kind not in _TYPES:
        raise ValueError(f"its weights are of type {kind[:20]}")
    return torch.empty(part.get_shape(), dtype=_TYPES[kind], device="meta")


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        return f"{'.'.join(map(str, first['loc']))[:80] or 'its header'}: {first['msg']}"[:200]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, SafetensorError):
        return " ".join(str(error).split())[:160]
    if isinstance(error, ValueError | NasOptunaError) and not isinstance(error, UnicodeError):
        return "".join(c if c.isprintable() else "?" for c in " ".join(str(error).split()))[:220]
    return describe(error)
