"""Layers for your own spaces, whose widths, kernels and strides a supernet can leave open.

Built with plain numbers, each *is* torch's own layer, so the network of a trial, an extracted or an exported one
contains no classes of ours. Built with a number from `Choices.elastic`, as in a supernet, it has the weights of the
largest choice: every smaller width is its first channels, every smaller kernel its centre (Cai et al. 2020,
"Once-for-all", section 3.2). Choices are mixed by masks on weights and channels, not by mixing feature maps, so that a
step costs about as much as one of the largest network. A stride changes the size of what follows and is always drawn.

One choice is computed with sliced weights, at its own cost. If choices are mixed, everything is computed, and a layer
multiplies the channels of its *input* by their weight in the mixture, because layers between (a norm, an activation, a
sum) need not preserve zeros. Convolutions with `balanced` scale their output instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.errors import SpecError
from nas_optuna.spaces.mixing import Elastic, Size, constant, size_of

SMALLEST_GROUP = 4
"""The smallest group of channels that is centred; of a smaller one, centring would leave little."""


class ElasticLayer(nn.Module):
    """The base class of elastic layers; `inputs` and `outputs` are their elastic widths."""

    inputs: Size
    outputs: Size
    scales_output: bool = False  # whether mixed choices scale the output rather than the input
    plain: ClassVar[type[nn.Module] | None] = None  # torch's layer, used if no number is elastic

    def __new__(cls, *args: Any, balanced: float | None = None, centre: bool = False, **options: Any) -> Any:
        """An elastic layer, or `plain` if no number is elastic; copying passes no arguments."""
        numbers = (*args, *options.values())
        if cls.plain is None or not numbers or any(isinstance(number, Elastic) for number in numbers):
            return super().__new__(cls)
        return cls.plain(*args, **options)

    def masked(self, x: Tensor, dim: int) -> Tensor:
        """The input, weighted along a dimension if choices are mixed."""
        mask = None if self.scales_output else self.inputs.mask()
        return x if mask is None else x * mask.to(x.dtype).view(-1, *[1] * (x.ndim - dim % x.ndim - 1))

    def state_for(self, target: nn.Module) -> dict[str, Tensor]:
        """The weights of one choice."""
        mine = self.state_dict()
        return {
            key: mine[key][tuple(map(slice, value.shape))] for key, value in target.state_dict().items() if key in mine
        }


def cut(tensor: Tensor | None, count: int) -> Tensor | None:
    """The first entries of a tensor, or None for None."""
    return None if tensor is None else tensor[:count]


def centring(channels: int, widths: Sequence[int]) -> Tensor:
    """The ``[channels, channels]`` matrix that subtracts from a weight's input channels their mean over each group."""
    # A group is the channels that a width adds to the next smaller one, so that centring and taking the first channels
    # commute.
    ascending = sorted(set(widths))
    groups = [width - before for before, width in zip([0, *ascending], ascending, strict=False)]
    means = [torch.full((size, size), 1 / size if size >= SMALLEST_GROUP else 0.0) for size in groups]
    return torch.eye(channels) - (torch.block_diag(*means) if groups else 0)


def centred(weight: Tensor, matrix: Tensor) -> Tensor:
    """``[out, in, …]`` times a `centring` matrix, in channels-last memory format, in which convolutions are fastest."""
    channels = weight.shape[1]
    return (weight.movedim(1, -1) @ matrix[:channels, :channels]).movedim(-1, 1)


@cache
def mean_taps(side: int, kernel: int, stride: int, border: int) -> float:
    """The mean number of a kernel's taps along one side that lie inside the image."""
    starts = range(-border, side + border - kernel + 1, stride)
    return sum(max(0, min(side, start + kernel) - max(0, start)) for start in starts) / len(starts)


def geometric_mean(values: Sequence[int]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))  # that of `statistics` rounds otherwise


class ElasticConv2d(ElasticLayer, nn.Conv2d):
    """`torch.nn.Conv2d` whose channels, kernel and stride may be elastic.

    Without norm layers, a shared weight cannot suit a small and a large fan-in at once, and a deep chain stays at
    chance for thousands of steps. Three measures let every architecture begin to learn, and become part of an extracted
    network's weights:

    - `balanced`: each choice has a gain, ``1 / sqrt(taps)`` and ``1 / sqrt(filters)``, relative to the choices'
      geometric means. Taps are the weights of a kernel over the image rather than its padding: most of a 7×7 kernel
      lies outside an image of 1 or 2 pixels, and with a gain of ``1 / kernel`` the signal would vanish within five
      layers.
    - `centre`: weights are centred over input channels (weight standardisation, Qiao et al. 2019; Brock et al. 2021).
      Outputs of ReLU are positive, and without centring their mean dominates: after five layers the cosine similarity
      of any two images' features is 0.98, with it 0.8.
    - the factor given as `balanced` multiplies the initial weights, to compensate for the layers that follow.

    Args:
        in_channels: A number, also from `Choices.elastic`.
        out_channels: A number, also from `Choices.elastic`.
        kernel_size: As in torch's layer, or odd numbers from `Choices.elastic`.
        stride: As in torch's layer, or numbers from `Choices.elastic`.
        padding: As in torch's layer; it must grow with an elastic kernel, as ``kernel // 2`` does.
        args: As in torch's layer.
        balanced: A factor of the initial weights; None does not balance. Only ReLU and pooling may stand between this
            layer and another balanced one.
        centre: Whether weights are centred in a supernet; needs `balanced`.
        options: As in torch's layer. `groups` is 1, or the number of both input and output channels.

    Raises:
        SpecError: With an elastic number: other groups, padding that is not given as numbers or does not grow with an
            elastic kernel, or an even kernel.

    Examples:
        >>> ElasticConv2d(3, 16, 3, padding=1)
        Conv2d(3, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """

    plain = nn.Conv2d
    matrix: Tensor
    kernel_masks: Tensor
    width_masks: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        *args: Any,
        balanced: float | None = None,
        centre: bool = False,
        **options: Any,
    ) -> None:
        side = kernel_size if isinstance(kernel_size, int) else kernel_size[0]
        self.inputs, self.outputs, self.kernel, self.step = map(size_of, (in_channels, out_channels, side, stride))
        self.balance, self.scales_output = balanced, balanced is not None
        self.mean_filters = geometric_mean(self.outputs.choices)
        self.mean_inputs = geometric_mean(self.inputs.choices)
        self.mean_kernel = geometric_mean(self.kernel.choices) if isinstance(kernel_size, int) else 1.0
        self.paddings: tuple[Any, ...] = size_of(padding).choices
        fixed: Any = [
            int(v) if isinstance(v, int) else v for v in (in_channels, out_channels, kernel_size, stride, padding)
        ]
        super().__init__(*fixed, *args, **options)
        self.depthwise = self.groups > 1
        self._require_croppable()
        for opened in self.step.opens:
            opened.drawn = True
        self._prepare(centre)

    def _require_croppable(self) -> None:
        partly = self.depthwise and not self.groups == self.in_channels == self.out_channels
        if partly or not isinstance(self.padding, tuple) or self.padding_mode != "zeros":
            raise SpecError("ElasticConv2d needs groups = 1 or as many as channels, and a padding of numbers and zeros")
        if not self.kernel.opens:
            return
        borders = self.paddings if len(self.paddings) > 1 else self.paddings * len(self.kernel.choices)
        sizes = {2 * p - k * self.dilation[0] for p, k in zip(borders, self.kernel.choices, strict=True)}
        if len(sizes) > 1 or any(k % 2 == 0 for k in self.kernel.choices):
            raise SpecError(
                f"elastic kernels must be odd, got {list(self.kernel.choices)}, and their padding must grow with them;"
                " write padding=kernel // 2"
            )
        self.paddings = borders

    def _prepare(self, centre: bool) -> None:
        """Make the masks and the centring matrix, constants that move with the module."""
        masks = torch.zeros(len(self.kernel.choices), *self.kernel_size)
        for mask, kernel in zip(masks, self.kernel.choices, strict=True):
            mask[self._centre(kernel)] = 1
        width_masks = torch.zeros(len(self.outputs.choices), self.out_channels)
        for mask, width in zip(width_masks, self.outputs.choices, strict=True):
            mask[:width] = self.gain(width)
        groups = self.inputs.choices if centre and self.inputs.opens else ()
        self.register_buffer("matrix", centring(self.in_channels // self.groups, groups), persistent=False)
        self.register_buffer("kernel_masks", masks, persistent=False)
        self.register_buffer("width_masks", width_masks, persistent=False)

    def reset_parameters(self) -> None:
        """Torch's own initial weights; balanced ones are normal, for every choice at once."""
        if self.balance is None:
            super().reset_parameters()
            return
        nn.init.normal_(self.weight, std=self.balance * math.sqrt(2 / self.mean_inputs) / self.mean_kernel)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def _centre(self, kernel: int) -> tuple[slice, slice]:
        """The place of a smaller kernel in the largest one."""
        if not self.kernel.opens:
            return slice(None), slice(None)
        border = (self.kernel_size[0] - kernel) // 2
        return (slice(border, border + kernel),) * 2

    def gain(self, width: int) -> float:
        """The factor of balancing for the output of a width."""
        return 1.0 if self.balance is None else math.sqrt(self.mean_filters / width)

    def _kernel_gain(self, place: int, kernel: int, stride: int, shape: Sequence[int]) -> float:
        """The factor of balancing for a kernel, few of whose taps lie inside a small image."""
        if self.balance is None:
            return 1.0
        border = self.paddings[place] if self.kernel.opens else self.padding[0]
        taps = math.prod(mean_taps(side, kernel, stride, int(border)) for side in shape[-2:])
        return self.mean_kernel / math.sqrt(max(taps, 1.0))

    def _cropped(self, width: int, place: int, stride: int, shape: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of one choice, gains included: pooling and ReLU commute with a positive factor."""
        kernel = self.kernel.choices[place]
        channels = slice(None) if self.depthwise else slice(shape[0])
        weight = self.weight[(slice(width), channels, *self._centre(kernel))]
        bias = cut(self.bias, width)
        if self.balance is None:
            return weight, bias
        gain = self.gain(width)
        weight = centred(weight, self.matrix) * (gain * self._kernel_gain(place, kernel, stride, shape))
        return weight, None if bias is None else bias * gain

    def _mixed(self, width: int, stride: int, shape: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the largest choice, each masked by its weight in the mixture."""
        weight, bias = self.weight if self.depthwise else self.weight[:, : shape[0]], self.bias
        if self.balance is not None:
            weight = centred(weight, self.matrix)
        taps: Tensor | float = 1.0
        if (mixed := self.kernel.weights()) is not None:
            gains = tuple(self._kernel_gain(i, k, stride, shape) for i, k in enumerate(self.kernel.choices))
            taps = ((mixed * constant(gains, mixed)) @ self.kernel_masks.flatten(1)).view(self.kernel_size)
        elif self.balance is not None:
            taps = self._kernel_gain(0, self.kernel_size[0], stride, shape)
        scale = None
        if self.balance is not None and (mixed := self.outputs.weights()) is not None:
            scale = mixed @ self.width_masks
        if (mixed := self.step.weights()) is not None:
            drawn = mixed[self.step.choices.index(stride)]
            scale = drawn.expand(self.out_channels) if scale is None else scale * drawn
        weight = weight * taps
        if scale is not None:  # not combined with taps, which would lose channels-last for weights of one channel
            weight, bias = weight * scale[:, None, None, None], None if bias is None else bias * scale
        return weight[:width], cut(bias, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, in_channels, height, width]`` → ``[batch, out_channels, height', width']``."""
        width, stride = self.outputs.alone, cast(Any, self.step.alone)
        place = self.kernel.choices.index(self.kernel.alone)
        padding: Any = self.paddings[place] if self.kernel.opens else self.padding
        self.given = tuple(x.shape[1:])  # for `state_for`
        step = stride if isinstance(stride, int) else stride[0]
        mixes = any(size.weights() is not None for size in (self.outputs, self.kernel, self.step))
        weight, bias = self._mixed(width, step, self.given) if mixes else self._cropped(width, place, step, self.given)
        groups = width if self.depthwise else 1
        return F.conv2d(self.masked(x, 1), weight, bias, stride, padding, self.dilation, groups)

    def narrow(self, output: Tensor, wide: int, index: int) -> Tensor:
        """Turn the output of a width, after ReLU and pooling, into that of a smaller one; widths are indices."""
        width = self.outputs.choices[index]
        return output[:, :width] * (self.gain(width) / self.gain(self.outputs.choices[wide]))

    def state_for(self, target: nn.Module) -> dict[str, Tensor]:
        """See `ElasticLayer.state_for`; gains are those of the sizes in the last forward pass."""
        layer = cast(nn.Conv2d, target)
        place = self.kernel.choices.index(layer.kernel_size[0])
        shape = (layer.in_channels, *self.given[1:]) if self.balance is not None else (layer.in_channels,)
        weight, bias = self._cropped(layer.out_channels, place, layer.stride[0], shape)
        return {"weight": weight} if bias is None else {"weight": weight, "bias": bias}


class ElasticLinear(ElasticLayer, nn.Linear):
    """`torch.nn.Linear` whose features may be elastic.

    Args:
        in_features: A number, also from `Choices.elastic`.
        out_features: A number, also from `Choices.elastic`.
        args: As in torch's layer.
        options: As in torch's layer.

    Examples:
        >>> ElasticLinear(32, 10)
        Linear(in_features=32, out_features=10, bias=True)
    """

    plain = nn.Linear

    def __init__(self, in_features: int, out_features: int, *args: Any, **options: Any) -> None:
        super().__init__(int(in_features), int(out_features), *args, **options)
        self.inputs, self.outputs = size_of(in_features), size_of(out_features)

    def forward(self, x: Tensor) -> Tensor:
        """``[…, in_features]`` → ``[…, out_features]``."""
        out = self.outputs.alone
        return F.linear(self.masked(x, -1), self.weight[:out, : x.shape[-1]], cut(self.bias, out))


class ElasticBatchNorm2d(ElasticLayer, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose channels may be elastic.

    Args:
        num_features: A number, also from `Choices.elastic`.
        args: As in torch's layer.
        options: As in torch's layer.

    Examples:
        >>> type(ElasticBatchNorm2d(16)).__name__
        'BatchNorm2d'
    """

    plain = nn.BatchNorm2d

    def __init__(self, num_features: int, *args: Any, **options: Any) -> None:
        super().__init__(int(num_features), *args, **options)
        self.inputs = self.outputs = size_of(num_features)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, num_features, height, width]`` → the same shape."""
        count = x.shape[1]
        rate = 0.0 if self.momentum is None else self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        mean, variance = cut(self.running_mean, count), cut(self.running_var, count)
        weight, bias = cut(self.weight, count), cut(self.bias, count)
        return F.batch_norm(x, mean, variance, weight, bias, self.training or mean is None, rate, self.eps)


class ElasticGroupNorm(ElasticLayer, nn.GroupNorm):
    """`torch.nn.GroupNorm` whose channels may be elastic.

    Args:
        num_groups: A number that divides every choice, or the elastic channels divided by those of one group.
        num_channels: A number, also from `Choices.elastic`.
        args: As in torch's layer.
        options: As in torch's layer.

    Examples:
        >>> type(ElasticGroupNorm(4, 16)).__name__
        'GroupNorm'
    """

    plain = nn.GroupNorm

    def __init__(self, num_groups: int, num_channels: int, *args: Any, **options: Any) -> None:
        super().__init__(int(num_groups), int(num_channels), *args, **options)
        self.inputs = self.outputs = size_of(num_channels)
        self.grows = isinstance(num_groups, Elastic)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, num_channels, …]`` → the same shape; of mixed choices, each is normalised separately."""
        if self.grows:  # groups of constant size are the same in every choice
            return self._first(x, x.shape[1])
        total = x.shape[1]
        padding = (0, 0) * (x.ndim - 2)
        return self.inputs.mixed(lambda count: F.pad(self._first(x[:, :count], count), (*padding, 0, total - count)))

    def _first(self, x: Tensor, count: int) -> Tensor:
        groups = self.num_groups * count // self.num_channels if self.grows else self.num_groups
        return F.group_norm(x, groups, cut(self.weight, count), cut(self.bias, count), self.eps)


def kaiming(module: nn.Module) -> None:
    """Draw a layer's weights so that activations keep their variance through layers with ReLU (He et al. 2015, 2.2).

    Args:
        module: Weights of a convolution or a linear layer are drawn from torch's global generator, and its biases
            become zero; other modules are left as they are.

    Examples:
        >>> network = nn.Linear(2, 2).apply(kaiming)
        >>> network.bias.tolist()
        [0.0, 0.0]
    """
    # On the meta device torch takes long to draw nothing.
    if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
