"""A trained network as one file: weights, architecture, and how images are prepared. Nothing in it is executed.

A file names a space that is built in or registered by an installed package, and its options are data. It is checked
before anything large is read or made.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nas_optuna.data import ImageSet
from nas_optuna.data.images import MAX_CLASSES
from nas_optuna.data.loaders import Preparation
from nas_optuna.data.pixels import PixelFormat
from nas_optuna.data.source import resize_images
from nas_optuna.devices import resolve_device
from nas_optuna.errors import DataError, NasOptunaError, checked, describe_error, named, reason_of, shown
from nas_optuna.files import write_file
from nas_optuna.quantities import plural
from nas_optuna.randomness import seeded
from nas_optuna.spaces import SPACES, SearchSpace, create_space, makes_spaces
from nas_optuna.spaces.architecture import Architecture, checked_input_size
from nas_optuna.spaces.built import of_network
from nas_optuna.spec import StudySpec
from nas_optuna.spec_text import problem_of
from nas_optuna.training.checkpoint import require_tensors
from nas_optuna.training.network import kind_of
from nas_optuna.training.raw_images import as_batch, refused

FORMAT = 2
"""The header's format. Release 0.2 wrote 1, with a shorter description of pixels and without a study."""
_KEY = "nas_optuna"
_BATCH = 256


class Origin(BaseModel):
    """The training that made the weights, and the test figures of exactly these weights."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    study: str = Field(max_length=1000)
    study_uid: str = Field(max_length=100)
    trial: int = Field(ge=0)
    recipe: str = Field(max_length=100)
    seed: int
    test_accuracy: float = Field(ge=0, le=1)
    test_images: int = Field(ge=1)
    accuracies: list[float] = Field(min_length=1, max_length=10_000)


class Header(BaseModel):
    """The file's content besides the weights, JSON-ready."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    format: int = Field(ge=1)
    space: str = Field(min_length=1, max_length=10_000)  # which may be a long path
    space_options: dict[str, Any] = Field(max_length=100)
    architecture: str = Field(max_length=1_000_000)
    classes: list[str] = Field(min_length=2, max_length=MAX_CLASSES)
    pixels: dict[str, Any] = Field(max_length=20)
    origin: Origin | None = None


class ImageClassifier(nn.Module):
    """A network that takes raw images. It can be traced, exported and pickled.

    Attributes:
        network: From prepared images to logits.
        prepare: From raw images to prepared ones.
        architecture: Its architecture.
        classes: The name of each output.
        pixels: The format of the training images: shape, range, background, normalisation.
    """

    def __init__(self, network: nn.Module, architecture: Architecture, header: Header) -> None:
        super().__init__()
        self.network = network
        self.architecture = architecture
        self.header = header
        self.classes = tuple(header.classes)
        self.pixels = PixelFormat.from_dict(header.pixels)
        self.prepare = Preparation(self.pixels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(channels, height, width)`` of a raw image."""
        return self.pixels.channels, self.pixels.height, self.pixels.width

    def resized(self, images: Tensor) -> Tensor:
        """Raw images, uint8 ``[n, channels, …, …]``, in the training size; test images may be of another."""
        if images.dtype != torch.uint8 or images.ndim != 4:
            return images  # `forward` refuses them
        return resize_images(images, *self.image_shape[1:], self.pixels.resize)

    def forward(self, images: Tensor) -> Tensor:
        """Raw images of the training size → logits.

        Args:
            images: ``[batch, channels, height, width]``, uint8.

        Returns:
            ``[batch, classes]``, float32.

        Raises:
            DataError: They are of another type or shape.
        """
        traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]  # it would keep the answer
        fits = traced or (images.dtype == torch.uint8 and images.shape[1:] == self.image_shape and images.shape[0] > 0)
        if not fits:
            raise refused(f"images are {kind_of(images)}", self.pixels)
        return cast(Tensor, self.network(self.prepare(images)))

    @torch.inference_mode()
    def probabilities(self, images: Any) -> Tensor:
        """The probability of each class for each image.

        Args:
            images: A tensor or an array ``[n, channels, height, width]``, one image, a PIL image, a picture's path, or
                a list of these; see `nas_optuna.training.raw_images.as_batch`.

        Returns:
            ``[n, classes]``, float32, on the host; rows add up to 1.

        Raises:
            DataError: They are of another type or shape; the message says what is expected.
        """
        raw = as_batch(images, self.pixels)
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


def make_header(architecture: Architecture, spec: StudySpec, images: ImageSet, origin: Origin | None = None) -> Header:
    """The header of a network's file: how to rebuild it, and how pictures become its inputs."""
    return Header(
        format=FORMAT,
        space=spec.space.name,
        space_options=json.loads(json.dumps(spec.space.options)),
        architecture=str(architecture),
        classes=list(images.classes),
        pixels=images.pixel_format(spec.recipe.input_size or images.side).to_dict(),
        origin=origin,
    )


def loading_call(space: str, file: str) -> str:
    """The call that loads a network from a file; it takes the space's function if that is code of the user's own."""
    name = space.rpartition(":")[2]
    own = f", space={name if name.isidentifier() else '...'}" if SPACES.is_code(space) else ""
    return f"nas_optuna.load_network({json.dumps(file, ensure_ascii=False)}{own})"


def save_network(path: Path, network: nn.Module, header: Header) -> None:
    """Write a trained network."""
    # Copies, because safetensors refuses shared memory, and channels-last weights are not contiguous.
    weights = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    try:
        write_file(path, save(weights, {_KEY: header.model_dump_json()}))
    except OSError as error:
        raise DataError(f"cannot write {path}: {reason_of(error)}") from error


@checked
def load_network(
    path: Path | str, device: str = "cpu", *, space: SearchSpace | Callable[..., Any] | None = None
) -> ImageClassifier:
    """Read a network that `save_network` wrote. Nothing in the file is executed.

    Args:
        path: The file.
        device: Where its weights are put.
        space: The search space, if it is your own code rather than built in or installed as a plugin: the space, or
            the function or class that a spec has named.

    Raises:
        DataError: The file is missing, damaged, of another kind or a newer version, or its space is not installed.
        DeviceError: The device is not there.

    Examples:
        >>> load_network("absent.safetensors")
        Traceback (most recent call last):
        ...
        nas_optuna.errors.DataError: 'absent.safetensors' is not a network that nas-optuna retrain wrote (no such file)
    """
    where = resolve_device(device)
    try:
        if not Path(path).is_file():  # a reader would wait for a pipe
            raise ValueError(_instead(Path(path)))
        with safe_open(path, framework="pt", device="cpu") as file:
            header = _header(file.metadata() or {})
            # They are mapped into memory, and read when they are copied.
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            made = _space(header, space)
            architecture = made.parse(header.architecture)
            network = _built(
                made, architecture, weights, plugin=space is not None or header.space not in SPACES.builtin
            )
        require_tensors(weights, network.state_dict())
        network.load_state_dict(weights)
        classifier = ImageClassifier(network, architecture, header)
    except DataError as error:  # of a sound file
        raise DataError(f"{named(path)!r}: {error}") from error
    except Exception as error:  # readers of a damaged file may raise anything
        told = isinstance(error, OSError | SafetensorError | ValueError | NasOptunaError)
        reason = reason_of(error, 240) if told else describe_error(error)
        if isinstance(error, ValidationError):
            reason = problem_of(error, "header")
        raise DataError(f"{named(path)!r} is not a network that nas-optuna retrain wrote ({reason})") from error
    return classifier.to(where).eval()


def _instead(path: Path) -> str:
    """What is there instead of a file."""
    if not path.is_dir():
        return "it is not a regular file" if path.exists() else "no such file"
    inside = (path / name for name in ("model.safetensors", "network/model.safetensors"))  # of an export and of a fit
    found = next((file for file in inside if file.is_file()), None)
    return f"it is a folder; give {'the file in it' if found is None else named(found)}"


def _header(metadata: dict[str, str]) -> Header:
    if _KEY not in metadata:
        raise ValueError("it does not say of which architecture the weights are")
    given = json.loads(metadata[_KEY])
    if isinstance(given, dict) and isinstance(given.get("format"), int) and given["format"] > FORMAT:
        raise ValueError("a newer nas-optuna wrote it; upgrade with pip install -U nas-optuna")
    return Header.model_validate(_upgraded(given))


def _upgraded(given: Any) -> Any:
    """A header of format 1, whose description of pixels was not nested, in the current format."""
    if not isinstance(given, dict) or given.get("format") != 1:
        return given
    flat = {"image_shape", "input_size", "mean", "std", "resize"}
    shape, size = given.get("image_shape"), given.get("input_size")
    if not isinstance(shape, list) or len(shape) != 3:
        raise ValueError(f"image_shape is {str(shape)[:60]}")
    pixels = {key: given[key] for key in ("mean", "std", "resize") if key in given}
    pixels |= zip(("channels", "height", "width"), shape, strict=True)
    pixels["input_size"] = size if isinstance(size, list) else [size, size]
    return {key: value for key, value in given.items() if key not in flat} | {"pixels": pixels}


def _space(header: Header, given: SearchSpace | Callable[..., Any] | None) -> SearchSpace:
    pixels, classes = PixelFormat.from_dict(header.pixels), len(header.classes)
    channels, size = pixels.channels, checked_input_size(pixels.input_size)
    if given is None and header.space not in SPACES:
        raise DataError(
            f"its space {shown(header.space)} is neither built in nor installed; where it is code of your own, give the"
            " function: load_network(file, space=...)"
        )
    if given is not None and not isinstance(given, SearchSpace):
        own = {option: value for option, value in header.space_options.items() if option != "fix"}
        make = given if makes_spaces(given) else of_network(given, header.space)
        given = make(in_channels=channels, classes=classes, input_size=size, **own)
    if isinstance(given, SearchSpace):
        if (given.in_channels, given.classes, checked_input_size(given.input_size)) == (channels, classes, size):
            return given
        planned = f"{plural(channels, 'channel')}, {classes} classes and input size {size}"
        raise DataError(f"it is for {planned}; make such a space")
    return create_space(header.space, header.space_options, in_channels=channels, classes=classes, input_size=size)


def _built(space: SearchSpace, architecture: Architecture, found: dict[str, Tensor], *, plugin: bool) -> nn.Module:
    """The network, built after its weights' shapes were compared with the file's without allocating either."""
    outline = None
    # Only a plugin's network may use its weights while it is built.
    with suppress(Exception) if plugin else nullcontext(), torch.device("meta"):
        outline = space.build(architecture)
    if outline is not None:
        require_tensors(found, outline.state_dict())
    with seeded(0):
        return space.build(architecture)
