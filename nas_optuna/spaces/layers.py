"""Layers for spaces of your own, of which a supernet can leave widths, kernels and strides open.

Built with plain numbers, each *is* torch's own layer: a network of a search, an extracted and an exported one hold
nothing of ours. Built with a number that `Choices.elastic` left open, as in a supernet, it has the weights of the
largest choice: every smaller width is its first channels, every smaller kernel its centre (Cai et al. 2020,
"Once-for-all", section 3.2). Mixing choices mixes masks on weights and channels, not feature maps, so that a step costs
about as much as the largest single network's, however many choices there are. A stride changes the size of what
follows and is always drawn.

One choice is computed with sliced weights, at its own cost. Where choices are mixed, everything is computed, and a
layer multiplies the channels of its *input* by how much the mixed choices have of each: what stands between two layers
(a norm, an activation, a sum) need not keep zeros. Convolutions with `balanced` scale their own output instead.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.spaces.elastic import size_of
from nas_optuna.spaces.entangled import ElasticLayer, OpenConv2d, cut


class _OpenLinear(ElasticLayer, nn.Linear):
    def __init__(self, in_features: int, out_features: int, *args: Any, **options: Any) -> None:
        super().__init__(int(in_features), int(out_features), *args, **options)
        self.inputs, self.outputs = size_of(in_features), size_of(out_features)

    def forward(self, x: Tensor) -> Tensor:
        """``[…, in_features]`` → ``[…, out_features]``."""
        out = self.outputs.alone if self.outputs else self.out_features
        return F.linear(self.masked(x, -1), self.weight[:out, : x.shape[-1]], cut(self.bias, out))


class _OpenBatchNorm2d(ElasticLayer, nn.BatchNorm2d):
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


class _OpenGroupNorm(ElasticLayer, nn.GroupNorm):
    def __init__(self, num_groups: int, num_channels: int, *args: Any, **options: Any) -> None:
        super().__init__(int(num_groups), int(num_channels), *args, **options)
        self.inputs = self.outputs = size_of(num_channels)
        self.grows = size_of(num_groups) is not None

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, num_channels, …]`` → the same shape; mixed choices are normalised each on its own."""
        if self.inputs is None or self.grows:  # groups of one size are the same in every choice
            return self._first(x, x.shape[1])
        total = x.shape[1]
        padding = (0, 0) * (x.ndim - 2)
        return self.inputs.mixed(lambda count: F.pad(self._first(x[:, :count], count), (*padding, 0, total - count)))

    def _first(self, x: Tensor, count: int) -> Tensor:
        groups = self.num_groups * count // self.num_channels if self.grows else self.num_groups
        return F.group_norm(x, groups, cut(self.weight, count), cut(self.bias, count), self.eps)


class ElasticConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` whose channels, kernel and stride may be elastic.

    Without norm layers a shared weight cannot suit a small and a large fan-in at once, and a deep chain stays at chance
    for thousands of steps. Three things let every architecture begin to learn, and become part of an extracted
    network's weights:

    - `balanced`: each choice has a gain, ``1 / sqrt(taps)`` and ``1 / sqrt(filters)``, relative to the choices'
      geometric means. Taps are the weights of a kernel that meet the image rather than its padding: most of a 7×7
      kernel lies outside of a side of 1 or 2, and a gain of ``1 / kernel`` lets the signal vanish within five layers.
    - `centre`: weights are centred over input channels (weight standardisation, Qiao et al. 2019; Brock et al. 2021).
      Outputs of ReLU are positive, and without centring their mean outgrows what tells one image from another: after
      five layers the cosine of any two images' features is 0.98, with it 0.8.
    - the factor that is given as `balanced` multiplies the initial weights, to make up for what follows.

    Args:
        in_channels: A number, or what `Choices.elastic` gave.
        out_channels: A number, or what `Choices.elastic` gave.
        kernel_size: As torch's layer, or odd numbers that `Choices.elastic` gave.
        stride: As torch's layer, or what `Choices.elastic` gave.
        padding: As torch's layer; beside an elastic kernel it grows with it, as ``kernel // 2`` does.
        args: As torch's layer.
        balanced: A factor of the initial weights; None does not balance. Only ReLU and pooling may stand between this
            layer and another balanced one.
        centre: Whether weights are centred in a supernet; needs `balanced`.
        options: As torch's layer. `groups` is 1, or as many as channels that come and go.

    Raises:
        SpecError: Other groups, padding that is not given as numbers or does not grow with an elastic kernel, or an
            even kernel, beside an elastic number.

    Examples:
        >>> ElasticConv2d(3, 16, 3, padding=1)
        Conv2d(3, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """

    def __new__(  # type: ignore[misc]
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        *args: Any,
        balanced: float | None = None,
        centre: bool = False,
        **options: Any,
    ) -> nn.Conv2d:
        """Torch's own layer where nothing is elastic."""
        numbers = (in_channels, out_channels, kernel_size, stride, padding)
        if any(map(size_of, numbers)):
            return OpenConv2d(*numbers, *args, balanced=balanced, centre=centre, **options)
        return nn.Conv2d(*numbers, *args, **options)


class ElasticLinear(nn.Linear):
    """`torch.nn.Linear` whose features may be elastic.

    Args:
        in_features: A number, or what `Choices.elastic` gave.
        out_features: A number, or what `Choices.elastic` gave.
        args: As torch's layer.
        options: As torch's layer.

    Examples:
        >>> ElasticLinear(32, 10)
        Linear(in_features=32, out_features=10, bias=True)
    """

    def __new__(cls, in_features: int, out_features: int, *args: Any, **options: Any) -> nn.Linear:  # type: ignore[misc]
        """Torch's own layer where nothing is elastic."""
        elastic = size_of(in_features) or size_of(out_features)
        return (_OpenLinear if elastic else nn.Linear)(in_features, out_features, *args, **options)


class ElasticBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` whose channels may be elastic.

    Args:
        num_features: A number, or what `Choices.elastic` gave.
        args: As torch's layer.
        options: As torch's layer.

    Examples:
        >>> type(ElasticBatchNorm2d(16)).__name__
        'BatchNorm2d'
    """

    def __new__(cls, num_features: int, *args: Any, **options: Any) -> nn.BatchNorm2d:  # type: ignore[misc]
        """Torch's own layer where nothing is elastic."""
        return (_OpenBatchNorm2d if size_of(num_features) else nn.BatchNorm2d)(num_features, *args, **options)


class ElasticGroupNorm(nn.GroupNorm):
    """`torch.nn.GroupNorm` whose channels may be elastic.

    Args:
        num_groups: A number, which must divide every choice, or the channels divided by the channels of one group.
        num_channels: A number, or what `Choices.elastic` gave.
        args: As torch's layer.
        options: As torch's layer.

    Examples:
        >>> type(ElasticGroupNorm(4, 16)).__name__
        'GroupNorm'
    """

    def __new__(cls, num_groups: int, num_channels: int, *args: Any, **options: Any) -> nn.GroupNorm:  # type: ignore[misc]
        """Torch's own layer where nothing is elastic."""
        elastic = size_of(num_channels) or size_of(num_groups)
        return (_OpenGroupNorm if elastic else nn.GroupNorm)(num_groups, num_channels, *args, **options)


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
    if (
        isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta
    ):  # which takes torch long to draw nothing
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
