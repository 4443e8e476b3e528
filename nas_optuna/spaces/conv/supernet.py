"""The conv space's supernet: every layer is one convolution whose choices share its weights.

Weight entanglement (Cai et al. 2020, once-for-all; Stamoulis et al. 2019, single-path NAS): a layer holds one kernel
of the largest size. A smaller kernel is its centred crop, fewer filters are its first ones. Mixing choices then mixes
masks on weights and channels, not feature maps, so that a step costs about as much as the largest single network's,
however many choices there are. A stride changes the size of what follows and is always drawn.

Without norm layers a shared weight cannot suit a small and a large fan-in at once, and a deep chain stays at chance for
thousands of steps. Three things, all of which `extract` puts into the weights, let every architecture begin to learn:

- Each choice has a constant gain, ``1 / sqrt(taps)`` and ``1 / sqrt(filters)``, relative to the choices' geometric
  means. Taps are the weights of a kernel that meet the image rather than its padding: most of a 7×7 kernel lies outside
  of a side of 1 or 2, and a gain of ``1 / kernel`` lets the signal vanish within five layers.
- Weights are centred over input channels (weight standardisation, Qiao et al. 2019; Brock et al. 2021). Outputs of
  ReLU are positive, and without centring their mean outgrows what tells one image from another: after five layers the
  cosine of any two images' features is 0.98, with it 0.8. A chain shorter than `CENTRED_DEPTH` learns without it, and
  there it hides which networks are the very best.
- `POOLED` makes up for the maximum of four that pooling takes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.errors import SpecError
from nas_optuna.randomness import seeded
from nas_optuna.spaces.architecture import Architecture, Choice
from nas_optuna.spaces.conv.space import ConvSpace, conv_operation, head_operation, output_side
from nas_optuna.spaces.supernet import CostModel, Nested, Pick, Stage, Supernet

_LayerChoices = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


POOLED = 0.57
"""``sqrt(E[max(0, x)²] / E[max(0, x1, x2, x3, x4)²])`` of independent standard normal variables."""
CENTRED_DEPTH = 3
"""Weights are centred in chains of at least so many convolutions."""
SMALLEST_GROUP = 4
"""Fewer channels are not centred, because little would be left of them."""


def centring(channels: int, groups: Sequence[int]) -> Tensor:
    """``[channels, channels]``: times a weight's input channels, it takes their mean over each group from them.

    Groups are what one choice of filters has more than the next smaller one, so that the first channels of a centred
    weight are those of the centred first channels.

    Args:
        channels: The most channels that the input can have.
        groups: How many channels each group has; none leaves a weight as it is.
    """
    means = [torch.full((size, size), 1 / size if size >= SMALLEST_GROUP else 0.0) for size in groups]
    return torch.eye(channels) - (torch.block_diag(*means) if groups else 0)


def centred(weight: Tensor, centring: Tensor) -> Tensor:
    """``[out, in, …]`` times a `centring` matrix, in channels-last memory format, in which convolutions are fastest.

    Args:
        weight: The weight, or its first input channels up to the end of a group.
        centring: The matrix, of at least as many channels.
    """
    channels = weight.shape[1]
    return (weight.movedim(1, -1) @ centring[:channels, :channels]).movedim(-1, 1)


def groups_of(filters: Sequence[int]) -> list[int]:
    """How many channels each choice has more than the next smaller one."""
    ascending = sorted(set(filters))
    return [width - before for before, width in zip([0, *ascending], ascending, strict=False)]


@cache
def mean_taps(side: int, kernel: int, stride: int) -> float:
    """How many of a kernel's taps along one side meet the image, in the mean over positions.

    Args:
        side: Of the image.
        kernel: Of the kernel; padding is ``(kernel + 1) // 2``.
        stride: Between positions.

    Example:
        >>> mean_taps(1, 7, 1)
        1.0
    """
    border = (kernel + 1) // 2
    starts = range(-border, side + border - kernel + 1, stride)
    return sum(max(0, min(side, start + kernel) - max(0, start)) for start in starts) / len(starts)


def geometric_mean(values: Sequence[int]) -> float:
    """The middle of a list of factors."""
    return math.exp(sum(map(math.log, values)) / len(values))


class EntangledConv(nn.Module):
    """Convolution, 2×2 max pooling, ReLU, with all its choices in one weight.

    Args:
        in_channels: The most channels that the input can have.
        filters: Choices of output channels.
        kernels: Choices of kernel sides, odd.
        strides: Choices of strides.
        groups: Groups of input channels over which weights are centred, see `centring`.
    """

    centring: Tensor
    kernel_masks: Tensor
    filter_masks: Tensor

    def __init__(
        self,
        in_channels: int,
        filters: Sequence[int],
        kernels: Sequence[int],
        strides: Sequence[int],
        groups: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.filters, self.kernels, self.strides = filters, kernels, strides
        self.side = max(kernels)
        self.mean_filters, self.mean_kernel = geometric_mean(filters), geometric_mean(kernels)
        self.weight = nn.Parameter(torch.empty(max(filters), in_channels, self.side, self.side))
        self.bias = nn.Parameter(torch.zeros(max(filters)))
        kernel_masks = torch.zeros(len(kernels), self.side, self.side)
        for mask, kernel in zip(kernel_masks, kernels, strict=True):
            mask[self.centre(kernel)] = 1
        filter_masks = torch.zeros(len(filters), max(filters))
        for mask, width in zip(filter_masks, filters, strict=True):
            mask[:width] = self.filter_gain(width)
        self.register_buffer("centring", centring(in_channels, groups), persistent=False)
        self.register_buffer("kernel_masks", kernel_masks, persistent=False)
        self.register_buffer("filter_masks", filter_masks, persistent=False)

    def centre(self, kernel: int) -> tuple[slice, slice]:
        """Where the crop of that kernel side lies in the largest one."""
        border = (self.side - kernel) // 2
        return (slice(border, border + kernel),) * 2

    def kernel_gain(self, kernel: int, shape: tuple[int, int], stride: int) -> float:
        """What the weights of a kernel side are multiplied with, on images of height and width `shape`."""
        taps = math.prod(mean_taps(side, kernel, stride) for side in shape)
        return self.mean_kernel / math.sqrt(max(taps, 1.0))

    def filter_gain(self, filters: int) -> float:
        """What the output of a number of filters is multiplied with."""
        return math.sqrt(self.mean_filters / filters)

    def crop(self, filters: int, kernel: int, stride: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Weight ``[filters, channels, kernel, kernel]`` and bias ``[filters]`` of one choice, gains included.

        The output's gain goes into them, since pooling and ReLU commute with a positive factor.

        Args:
            filters: Output channels.
            kernel: Side of the kernel.
            stride: Stride.
            shape: ``(channels, height, width)`` of the input.
        """
        channels, height, width = shape
        gain = self.filter_gain(filters)
        weight = centred(self.weight[(slice(filters), slice(channels), *self.centre(kernel))], self.centring)
        return weight * (gain * self.kernel_gain(kernel, (height, width), stride)), self.bias[:filters] * gain

    def narrow(self, output: Tensor, wide: int, index: int) -> Tensor:
        """From the output of one choice of filters to that of a smaller one; both by index."""
        width = self.filters[index]
        return output[:, :width] * (self.filter_gain(width) / self.filter_gain(self.filters[wide]))

    def forward(self, x: Tensor, filters: Pick, kernel: Pick, stride: Pick) -> Tensor:
        """``[batch, channels, side, side]`` → ``[batch, filters, side', side']``; mixed filters give the most."""
        assert stride.index is not None
        step = self.strides[stride.index]
        if filters.weights is None or kernel.weights is None:
            assert filters.index is not None
            assert kernel.index is not None
            width, size = self.filters[filters.index], self.kernels[kernel.index]
            weight, bias = self.crop(width, size, step, tuple(x.shape[1:]))
            return F.relu(F.max_pool2d(F.conv2d(x, weight, bias, step, (size + 1) // 2), 2))
        gains = kernel.weights.new_tensor([self.kernel_gain(k, (x.shape[2], x.shape[3]), step) for k in self.kernels])
        mask = ((kernel.weights * gains) @ self.kernel_masks.flatten(1)).view(self.side, self.side)
        weight = centred(self.weight[:, : x.shape[1]], self.centring)
        y = F.conv2d(x, weight * mask, self.bias, step, (self.side + 1) // 2)
        scale = filters.weights @ self.filter_masks
        if stride.weights is not None:
            scale = scale * stride.weights[stride.index]
        return F.relu(F.max_pool2d(y, 2)) * scale[:, None, None]


class Heads(nn.Module):
    """One linear layer for every size that a draw of strides can leave.

    Args:
        filters: The most channels that the input can have.
        sizes: Heights and widths.
        classes: Number of classes.
        groups: Groups of input channels over which weights are centred, see `centring`.
    """

    centring: Tensor

    def __init__(self, filters: int, sizes: Sequence[tuple[int, int]], classes: int, groups: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("centring", centring(filters, groups), persistent=False)
        self.weight = nn.ParameterDict({_side(*s): nn.Parameter(torch.empty(classes, filters, *s)) for s in sizes})
        self.bias = nn.ParameterDict({_side(*s): nn.Parameter(torch.zeros(classes)) for s in sizes})

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` → ``[batch, classes]``."""
        weight, bias = self.crop(x.shape[1], x.shape[2], x.shape[3])
        return F.linear(x.flatten(1), weight, bias)

    def crop(self, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Weight ``[classes, channels * height * width]`` and bias ``[classes]`` for inputs of one shape."""
        side = _side(height, width)
        return centred(self.weight[side][:, :channels], self.centring).flatten(1), self.bias[side]


def _side(height: int, width: int) -> str:
    """The key of a size's linear layer; that of a square is its side."""
    return str(height) if height == width else f"{height}x{width}"


class ConvSupernet(Supernet):
    """A chain of entangled convolutions and one linear layer.

    Args:
        space: The conv space; its kernels must be odd.
        alpha_init: See `Supernet`.

    Raises:
        SpecError: A kernel is even: its crop has no centre.
    """

    version = 3
    space: ConvSpace

    def __init__(self, space: ConvSpace, *, alpha_init: str = "zero") -> None:
        super().__init__(space, alpha_init=alpha_init)
        self.layer_names = [
            tuple(f"conv{i}.{part}" for part in ("filters", "kernel", "stride")) for i in range(1, space.depth + 1)
        ]
        self.must_draw = frozenset(stride for _, _, stride in self.layer_names)
        choices = [_choices(space, names) for names in self.layer_names]
        if even := [k for _, kernels, _ in choices for k in kernels if k % 2 == 0]:
            raise SpecError(f"the conv supernet crops kernels around their centre, so {even[0]} must be odd")
        channels, sizes = space.in_channels, {space.image_size}
        groups: list[int] = []
        self.layers = nn.ModuleList()
        for filters, kernels, strides in choices:
            self.layers.append(EntangledConv(channels, filters, kernels, strides, groups))
            channels, groups = max(filters), groups_of(filters) if space.depth >= CENTRED_DEPTH else []
            sizes = {
                (output_side(height, k, s), output_side(width, k, s))
                for (height, width), k, s in itertools.product(sizes, kernels, strides)
            }
        self.heads = Heads(channels, sorted(sizes), space.classes, groups)
        self.reset_weights()

    @torch.no_grad()
    def reset_weights(self) -> None:
        """He initialisation of every architecture at once: the gains make up for its fan-in."""
        channels: float = self.space.in_channels
        for layer in self.layers:
            assert isinstance(layer, EntangledConv)
            layer.weight.normal_(std=POOLED * math.sqrt(2 / channels) / layer.mean_kernel)
            layer.bias.zero_()
            channels = layer.mean_filters
        for side, weight in self.heads.weight.items():
            weight.normal_(std=1 / math.sqrt(channels * math.prod(weight.shape[2:])))
            self.heads.bias[side].zero_()

    def forward(self, images: Tensor, picks: Mapping[str, Pick]) -> Tensor:
        """Logits ``[batch, classes]`` of images ``[batch, in_channels, height, width]``."""
        x = images
        for stage in self.stages():
            x = stage.run(x, picks)
        return x

    def stages(self) -> Sequence[Stage]:
        """One for each layer, then the head."""

        def layer_stage(names: tuple[str, ...], layer: EntangledConv) -> Stage:
            filters, *others = names
            nested = Nested(filters, layer.filters, layer.narrow)
            return Stage(tuple(others), lambda x, picks: layer(x, *(picks[name] for name in names)), nested)

        convolutions = cast(Sequence[EntangledConv], self.layers)
        layers = [layer_stage(n, layer) for n, layer in zip(self.layer_names, convolutions, strict=True)]
        return (*layers, Stage((), lambda x, picks: self.heads(x)))

    def cost_model(self, table: Mapping[str, float]) -> CostModel:
        """The exact expectation over the Markov chain of (channels, side) from layer to layer."""
        if error := self.missing(table):
            raise error
        return _Chain(self.space, self.layer_names, table, self._alphas[0].detach())

    @torch.no_grad()
    def extract(self, architecture: Architecture) -> nn.Sequential:
        """One architecture's own network with a copy of the shared weights."""
        # Weights are drawn, to be overwritten.
        with seeded(0), torch.device(self._alphas[0].device):
            network = cast(nn.Sequential, self.space.build(architecture))
        *operations, head = self.space.operations(architecture)
        for operation, layer, module in zip(operations, self.layers, network, strict=False):
            assert isinstance(layer, EntangledConv)
            options = dict(operation.options)
            weight, bias = layer.crop(options["filters"], options["kernel"], options["stride"], operation.input_shape)
            module.load_state_dict({"conv.weight": weight, "conv.bias": bias})
        weight, bias = self.heads.crop(*head.input_shape)
        network[-1].load_state_dict({"1.weight": weight, "1.bias": bias})
        return network

    def smallest(self) -> dict[str, Choice]:
        """The fewest filters, the smallest kernel and the largest stride in every layer."""
        params: dict[str, Choice] = {}
        for names in self.layer_names:
            filters, kernels, strides = _choices(self.space, names)
            params |= zip(names, (min(filters), min(kernels), max(strides)), strict=True)
        return params


def _choices(space: ConvSpace, names: Sequence[str]) -> _LayerChoices:
    """The choices of one layer's filters, kernel and stride."""
    return cast(_LayerChoices, tuple(space.parameters[name].choices for name in names))


class _Chain(CostModel):
    """The expected cost of a chain whose layers' costs depend on the channels and side that come in.

    The state before a layer is its input's shape. Given the state, a layer's choices are independent, and they
    decide its cost and the next state. So the probabilities of the states are carried from layer to layer, and
    the expectation is exact without drawing anything.
    """

    def __init__(
        self,
        space: ConvSpace,
        layer_names: Sequence[tuple[str, ...]],
        table: Mapping[str, float],
        like: Tensor,
    ) -> None:
        self._names = layer_names
        self._costs: list[Tensor] = []  # a layer: [states, filters, kernels, strides]
        self._targets: list[Tensor] = []  # a layer: index of the next state, flattened alike
        self._counts: list[int] = []  # a layer: number of next states
        states = [space.input_shape]
        for names in layer_names:
            choices = _choices(space, names)
            cases = list(itertools.product(states, *choices))
            operations = [conv_operation(*case) for case in cases]
            costs = [table[operation.key] for operation in operations]
            following = [operation.output_shape for operation in operations]
            shape = (len(states), *map(len, choices))
            states = sorted(set(following))
            position = {state: i for i, state in enumerate(states)}
            self._costs.append(like.new_tensor(costs).view(shape))
            self._targets.append(torch.tensor([position[state] for state in following], device=like.device))
            self._counts.append(len(states))
        heads = [table[head_operation(state, space.classes).key] for state in states]
        self._head = like.new_tensor(heads)

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        state = self._head.new_ones(1)
        total = self._head.new_zeros(())
        for names, costs, targets, count in zip(self._names, self._costs, self._targets, self._counts, strict=True):
            filters, kernel, stride = (probabilities[name] for name in names)
            joint = torch.einsum("n,f,k,s->nfks", state, filters, kernel, stride)
            total = total + (joint * costs).sum()
            state = state.new_zeros(count).index_add(0, targets, joint.flatten())
        return total + state @ self._head
