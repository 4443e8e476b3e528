"""The conv space's supernet: every layer is one convolution whose choices share its weights.

Weight entanglement (Cai et al. 2020, once-for-all; Stamoulis et al. 2019, single-path NAS): a layer holds one kernel
of the largest size. A smaller kernel is its centred crop, fewer filters are its first ones. Mixing choices then mixes
masks on weights and channels, not feature maps, so that a step costs about as much as the largest single network's,
however many choices there are. A stride changes the size of what follows and is always drawn.

Without norm layers a shared weight cannot suit a small and a large fan-in at once: signals would shrink or grow from
layer to layer with the choice drawn. So each choice has a constant gain, which `extract` multiplies into the weights:
``1 / kernel`` and ``1 / sqrt(filters)``, relative to the choices' geometric means. Every architecture then starts
with He initialisation (He et al. 2015, section 2.2).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
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
    """

    kernel_masks: Tensor
    filter_masks: Tensor

    def __init__(
        self, in_channels: int, filters: Sequence[int], kernels: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.filters, self.kernels, self.strides = filters, kernels, strides
        self.side = max(kernels)
        self.mean_filters, self.mean_kernel = geometric_mean(filters), geometric_mean(kernels)
        self.weight = nn.Parameter(torch.empty(max(filters), in_channels, self.side, self.side))
        self.bias = nn.Parameter(torch.zeros(max(filters)))
        kernel_masks = torch.zeros(len(kernels), self.side, self.side)
        for mask, kernel in zip(kernel_masks, kernels, strict=True):
            mask[self.centre(kernel)] = self.kernel_gain(kernel)
        filter_masks = torch.zeros(len(filters), max(filters))
        for mask, width in zip(filter_masks, filters, strict=True):
            mask[:width] = self.filter_gain(width)
        self.register_buffer("kernel_masks", kernel_masks, persistent=False)
        self.register_buffer("filter_masks", filter_masks, persistent=False)

    def centre(self, kernel: int) -> tuple[slice, slice]:
        """Where the crop of that kernel side lies in the largest one."""
        border = (self.side - kernel) // 2
        return (slice(border, border + kernel),) * 2

    def kernel_gain(self, kernel: int) -> float:
        """What the weights of a kernel side are multiplied with."""
        return self.mean_kernel / kernel

    def filter_gain(self, filters: int) -> float:
        """What the output of a number of filters is multiplied with."""
        return math.sqrt(self.mean_filters / filters)

    def crop(self, filters: int, channels: int, kernel: int) -> tuple[Tensor, Tensor]:
        """Weight ``[filters, channels, kernel, kernel]`` and bias ``[filters]`` of one choice, gains included.

        The output's gain goes into them, since pooling and ReLU commute with a positive factor.
        """
        gain = self.filter_gain(filters)
        weight = self.weight[(slice(filters), slice(channels), *self.centre(kernel))]
        return weight * (gain * self.kernel_gain(kernel)), self.bias[:filters] * gain

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
            weight, bias = self.crop(width, x.shape[1], size)
            return F.relu(F.max_pool2d(F.conv2d(x, weight, bias, step, (size + 1) // 2), 2))
        mask = (kernel.weights @ self.kernel_masks.flatten(1)).view(self.side, self.side)
        y = F.conv2d(x, self.weight[:, : x.shape[1]] * mask, self.bias, step, (self.side + 1) // 2)
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
    """

    def __init__(self, filters: int, sizes: Sequence[tuple[int, int]], classes: int) -> None:
        super().__init__()
        self.weight = nn.ParameterDict({_side(*s): nn.Parameter(torch.empty(classes, filters, *s)) for s in sizes})
        self.bias = nn.ParameterDict({_side(*s): nn.Parameter(torch.zeros(classes)) for s in sizes})

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, channels, height, width]`` → ``[batch, classes]``."""
        side = _side(*x.shape[-2:])
        return F.linear(x.flatten(1), self.weight[side][:, : x.shape[1]].flatten(1), self.bias[side])


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
        self.layers = nn.ModuleList()
        for filters, kernels, strides in choices:
            self.layers.append(EntangledConv(channels, filters, kernels, strides))
            channels = max(filters)
            sizes = {
                (output_side(height, k, s), output_side(width, k, s))
                for (height, width), k, s in itertools.product(sizes, kernels, strides)
            }
        self.heads = Heads(channels, sorted(sizes), space.classes)
        self.reset_weights()

    @torch.no_grad()
    def reset_weights(self) -> None:
        """He initialisation of every architecture at once: the gains make up for its fan-in."""
        channels: float = self.space.in_channels
        for layer in self.layers:
            assert isinstance(layer, EntangledConv)
            layer.weight.normal_(std=math.sqrt(2 / channels) / layer.mean_kernel)
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
            weight, bias = layer.crop(options["filters"], operation.input_shape[0], options["kernel"])
            module.load_state_dict({"conv.weight": weight, "conv.bias": bias})
        channels, height, width = head.input_shape
        weight = self.heads.weight[_side(height, width)][:, :channels].flatten(1)
        network[-1].load_state_dict({"1.weight": weight, "1.bias": self.heads.bias[_side(height, width)]})
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
