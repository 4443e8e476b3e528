"""A trained network as one file: weights, architecture, and how images are prepared. Nothing in it is executed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nas_optuna.data import ImageSet
from nas_optuna.data.preprocessing import Preprocessor
from nas_optuna.errors import DataError, NasOptunaError
from nas_optuna.spaces import InputSize, create_space
from nas_optuna.spaces.architecture import Architecture
from nas_optuna.spaces.base import checked_input_size
from nas_optuna.spec import ResizePolicy, StudySpec

FORMAT = 1
_KEY = "nas_optuna"


@dataclass(frozen=True)
class _Header:
    """What the file says beside its weights, JSON-ready."""

    format: int
    space: str
    space_options: dict[str, Any]
    architecture: str
    input_size: InputSize
    image_shape: list[int]
    classes: list[str]
    mean: list[float]
    std: list[float]
    resize: ResizePolicy = "stretch"


class ImageClassifier(nn.Module):
    """A network that takes raw images.

    Attributes:
        network: From prepared images to logits.
        architecture: What it was built from.
        classes: What each output is called.
    """

    def __init__(self, network: nn.Module, architecture: Architecture, header: _Header) -> None:
        super().__init__()
        self.network = network
        self.architecture = architecture
        self.classes = tuple(header.classes)
        self._header = header
        self._input_size = checked_input_size(header.input_size)

    def forward(self, images: Tensor) -> Tensor:
        """Raw uint8 images of the size trained on → logits.

        Args:
            images: ``[batch, channels, height, width]``.

        Returns:
            ``[batch, classes]``, float32.
        """
        header = self._header
        example = ImageSet(
            torch.zeros(1, *header.image_shape, dtype=torch.uint8),
            torch.zeros(1, dtype=torch.int64),
            self.classes,
            tuple(header.mean),
            tuple(header.std),
            header.resize,
        )
        logits: Tensor = self.network(Preprocessor(example, self._input_size, images.device)(images))
        return logits

    @torch.inference_mode()
    def predict(self, images: Tensor) -> list[str]:
        """The class of each raw image."""
        return [self.classes[i] for i in self.eval()(images).argmax(1).tolist()]


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
    header = _Header(
        format=FORMAT,
        space=spec.space.name,
        space_options=spec.space.options,
        architecture=str(architecture),
        input_size=spec.recipe.input_size or images.side,
        image_shape=list(images.images.shape[1:]),
        classes=list(images.classes),
        mean=list(images.mean),
        std=list(images.std),
        resize=images.resize,
    )
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    try:
        path.write_bytes(save(weights, {_KEY: json.dumps(asdict(header))}))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def load_network(path: Path | str, device: str = "cpu") -> ImageClassifier:
    """Read a network that `save_network` wrote.

    Args:
        path: The file.
        device: Where its weights are put.

    Raises:
        DataError: The file is missing, damaged, or of another kind or a newer version.
    """
    try:
        with safe_open(path, framework="pt", device=device) as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        header = _Header(**json.loads(metadata[_KEY]))
        if header.format > FORMAT:
            raise DataError(f"{path} was written by a newer nas-optuna; upgrade with pip install -U nas-optuna")
        space = create_space(
            header.space,
            header.space_options,
            in_channels=header.image_shape[0],
            classes=len(header.classes),
            input_size=header.input_size,
        )
        architecture = space.parse(header.architecture)
        network = space.build(architecture)
        network.load_state_dict(weights)
    except NasOptunaError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is not a network that nas-optuna retrain wrote ({reason})") from error
    return ImageClassifier(network.to(device), architecture, header).eval()
