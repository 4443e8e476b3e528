"""The macro space's supernet: entangled kernels and widths, mixed layers, activations, connections and branches.

One weight of the largest size holds every kernel (its centred crops), every width and every expansion (its first
channels), as in the conv space's supernet (Cai et al. 2020, once-for-all). Layers, activations, connections, branches
and depths are computed side by side and mixed (Liu et al. 2019, DARTS).

A pick without weights computes one path, sliced out of the weights, at the cost of that path. A pick with weights
computes everything and mixes, also where the weights are one-hot: alphas then get the gradient of each choice, as in
FBNet (Wu et al. 2019), which a batch norm behind a single scaled path would hide. Channel masks follow the norm layers,
and groups of a group norm never cross the border between two widths, so that both ways give the same numbers.

All paths share the running statistics of a batch norm, which suit none of them: `MacroSupernet.recalibrate` takes them
anew for one path.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_optuna.randomness import seeded
from nas_optuna.spaces.architecture import Architecture, Choice
from nas_optuna.spaces.macro.layers import (
    ACTIVATION_MODULES,
    Body,
    ConvNorm,
    SlotLayer,
    Transition,
    ends_active,
    make_head,
    pooling,
)
from nas_optuna.spaces.macro.slot import WEIGHTED, Slot
from nas_optuna.spaces.macro.space import PARTS, MacroSpace
from nas_optuna.spaces.supernet import CostModel, Pick, Stage, Supernet

Picks = Mapping[str, Pick]
MOMENTUM = 0.1
"""Momentum of the running statistics of batch norm in training; recalibration takes a plain mean instead."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Channels:
    """How many channels are computed, and what they are multiplied with.

    Attributes:
        count: The first so many channels of the largest weight.
        mask: ``[count]``, or None where all of them count fully.
    """

    count: int
    mask: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        """``[batch, count, height, width]`` → the same shape, masked."""
        return x if self.mask is None else x * self.mask[:, None, None]


def mix(pick: Pick, choices: Iterable[_T], compute: Callable[[_T], Tensor]) -> Tensor:
    """The result of the one choice of a pick without weights, else the weighted sum of all results."""
    made = list(choices)
    if pick.weights is None:
        assert pick.index is not None
        return compute(made[pick.index])
    parts = [weight * compute(choice) for weight, choice in zip(pick.weights, made, strict=True)]
    return torch.stack(parts).sum(0)


class SharedConvNorm(nn.Module):
    """A `ConvNorm` of the largest size that holds all smaller ones.

    Args:
        in_channels: The most channels of one chunk of the input.
        out_channels: The most channels of the output.
        kernels: Choices of the kernel's side, odd.
        stride: Stride of the convolution.
        depthwise: Whether each channel has a kernel of its own.
        chunks: The most chunks, of at most `in_channels` channels each, that the input is concatenated from.
        norm: As in `make_norm`.
        group: Channels of one group of a group norm.
    """

    kernel_masks: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernels: Sequence[int] = (1,),
        *,
        stride: int = 1,
        depthwise: bool = False,
        chunks: int = 1,
        norm: str,
        group: int,
    ) -> None:
        super().__init__()
        self.kernels, self.stride, self.depthwise, self.chunks = kernels, stride, depthwise, chunks
        self.norm, self.group, self.side = norm, group, max(kernels)
        self.momentum = MOMENTUM
        inputs = 1 if depthwise else chunks * in_channels
        # Initialised as the largest convolution of its kind; a recipe's own initialisation comes through `modules`.
        like = nn.Conv2d(inputs, out_channels, self.side)
        self.weight = nn.Parameter(like.weight.detach().view(out_channels, -1, self.side, self.side))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if norm == "none" else None
        if norm != "none":
            self.norm_weight = nn.Parameter(torch.ones(out_channels))
            self.norm_bias = nn.Parameter(torch.zeros(out_channels))
        if norm == "batch":
            self.register_buffer("running_mean", torch.zeros(out_channels))
            self.register_buffer("running_var", torch.ones(out_channels))
        masks = torch.zeros(len(kernels), self.side, self.side)
        for mask, kernel in zip(masks, kernels, strict=True):
            mask[self.centre(kernel)] = 1
        self.register_buffer("kernel_masks", masks, persistent=False)

    def centre(self, kernel: int) -> tuple[slice, slice]:
        """Where the crop of that kernel side lies in the largest one."""
        border = (self.side - kernel) // 2
        return (slice(border, border + kernel),) * 2

    def crop(self, out_channels: int, in_channels: int, chunks: int, kernel: int) -> Tensor:
        """The weight of one choice, ``[out_channels, chunks * in_channels, kernel, kernel]``; depthwise 1 input."""
        weight = self.weight[(slice(out_channels), slice(None), *self.centre(kernel))]
        if self.depthwise:
            return weight
        by_chunk = weight.unflatten(1, (self.chunks, -1))
        cropped: Tensor = by_chunk[:, :chunks, :in_channels].flatten(1, 2)
        return cropped

    def forward(self, x: Tensor, out: Channels, kernel: Pick | None = None, chunks: int = 1) -> Tensor:
        """``[batch, chunks * channels, height, width]`` → ``[batch, out.count, height', width']``, masked."""
        size = self.side
        if kernel is not None and kernel.weights is None:
            size = self.kernels[cast(int, kernel.index)]
        weight = self.crop(out.count, x.shape[1] // chunks, chunks, size)
        if kernel is not None and kernel.weights is not None:
            weight = weight * (kernel.weights @ self.kernel_masks.flatten(1)).view(self.side, self.side)
        bias = None if self.bias is None else self.bias[: out.count]
        groups = out.count if self.depthwise else 1
        return out.apply(self.normalise(F.conv2d(x, weight, bias, self.stride, size // 2, groups=groups)))

    def normalise(self, x: Tensor) -> Tensor:
        """The norm layer of the first channels."""
        count = x.shape[1]
        if self.norm == "none":
            return x
        weight, bias = self.norm_weight[:count], self.norm_bias[:count]
        if self.norm == "group":
            return F.group_norm(x, count // self.group, weight, bias)
        mean, variance = self.running_mean[:count], self.running_var[:count]
        return F.batch_norm(x, mean, variance, weight, bias, self.training, self.momentum)

    def write(self, target: ConvNorm, chunks: int = 1) -> None:
        """Copy one choice into a network of its own."""
        out_channels, inputs, kernel, _ = target.conv.weight.shape
        target.conv.weight.copy_(self.crop(out_channels, inputs // chunks, chunks, kernel))
        if target.conv.bias is not None and self.bias is not None:
            target.conv.bias.copy_(self.bias[:out_channels])
        if isinstance(target.norm, nn.BatchNorm2d | nn.GroupNorm):
            target.norm.weight.copy_(self.norm_weight[:out_channels])
            target.norm.bias.copy_(self.norm_bias[:out_channels])
        if isinstance(target.norm, nn.BatchNorm2d):
            cast(Tensor, target.norm.running_mean).copy_(self.running_mean[:out_channels])
            cast(Tensor, target.norm.running_var).copy_(self.running_var[:out_channels])


@dataclass(frozen=True)
class Sizes:
    """What the layers of one slot have to hold, and the space's norm.

    Attributes:
        width: The most channels.
        kernels: Choices of the kernel.
        expansions: Choices of the expansion.
        activations: Choices of the activation.
        connections: Choices of the connection.
        branches: Choices of the number of branches.
        merges: Choices of the merge.
        norm: As in `make_norm`.
        group: Channels of one group of a group norm.
    """

    width: int
    kernels: tuple[int, ...]
    expansions: tuple[int, ...]
    activations: tuple[str, ...]
    connections: tuple[str, ...]
    branches: tuple[int, ...]
    merges: tuple[str, ...]
    norm: str
    group: int

    def conv_norm(self, in_channels: int, out_channels: int, **options: object) -> SharedConvNorm:
        """A shared layer with the space's norm."""
        return SharedConvNorm(in_channels, out_channels, norm=self.norm, group=self.group, **options)  # type: ignore[arg-type]


class SharedBody(nn.ModuleList):
    """One branch: all kernels, widths and expansions of one kind of layer."""

    def __init__(self, layer: str, sizes: Sizes) -> None:
        width, inner, kernels = sizes.width, sizes.width * max(sizes.expansions), sizes.kernels
        self.layer = layer
        if layer == "conv":
            made = [sizes.conv_norm(width, width, kernels=kernels)]
        elif layer == "ds":
            made = [sizes.conv_norm(width, width, kernels=kernels, depthwise=True), sizes.conv_norm(width, width)]
        else:
            depthwise = sizes.conv_norm(inner, inner, kernels=kernels, depthwise=True)
            made = [sizes.conv_norm(width, inner), depthwise, sizes.conv_norm(inner, width)]
        super().__init__(made)

    def forward(
        self, x: Tensor, out: Channels, inner: Channels, kernel: Pick, activate: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Keeps the shape; there is no activation at the end."""
        if self.layer == "conv":
            return cast(Tensor, self[0](x, out, kernel))
        if self.layer == "ds":
            return cast(Tensor, self[1](activate(self[0](x, out, kernel)), out))
        expanded = activate(self[0](x, inner))
        return cast(Tensor, self[2](activate(self[1](expanded, inner, kernel)), out))


class SharedArm(nn.Module):
    """One kind of layer in one slot, with all its branches, merges and connections."""

    def __init__(self, layer: str, sizes: Sizes) -> None:
        super().__init__()
        self.layer, self.sizes = layer, sizes
        most = max(sizes.branches)
        self.bodies = nn.ModuleList()
        self.merge: SharedConvNorm | None = None
        if layer in WEIGHTED:
            self.bodies.extend(SharedBody(layer, sizes) for _ in range(most))
            if most > 1 and "cat" in sizes.merges:
                self.merge = sizes.conv_norm(sizes.width, sizes.width, chunks=most)
        has_dense = layer != "skip" and "dense" in sizes.connections
        self.dense = sizes.conv_norm(sizes.width, sizes.width, chunks=2) if has_dense else None
        self.pools = nn.ModuleList(pooling(layer, k) for k in sizes.kernels if layer.endswith("pool"))
        self.activations = nn.ModuleList(ACTIVATION_MODULES[name]() for name in sizes.activations)

    def forward(self, x: Tensor, out: Channels, inner: Channels, pick: Mapping[str, Pick]) -> Tensor:
        """Keeps the shape; `pick` has the slot's parts by name."""
        if self.layer == "skip":
            return x

        def activate(y: Tensor) -> Tensor:
            return mix(pick["activation"], self.activations, lambda activation: activation(y))

        if self.pools:
            y = mix(pick["kernel"], self.pools, lambda pool: pool(x))
        else:
            y = self._joined(x, out, inner, pick, activate)

        def connected(connection: str) -> Tensor:
            z: Tensor = y
            if connection == "dense":
                assert self.dense is not None
                z = cast(Tensor, self.dense(torch.cat([x, y], 1), out, chunks=2))
            elif connection == "res":
                z = x + y
            return activate(z) if ends_active(self.layer, connection) else z

        return mix(pick["connection"], self.sizes.connections, connected)

    def _joined(
        self,
        x: Tensor,
        out: Channels,
        inner: Channels,
        pick: Mapping[str, Pick],
        activate: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """The outputs of the branches, added or concatenated."""
        branches = pick["branches"]
        needed = max(self.sizes.branches)
        if branches.weights is None:
            needed = self.sizes.branches[cast(int, branches.index)]
        outputs = [body(x, out, inner, pick["kernel"], activate) for body in self.bodies[:needed]]

        def merged(count: int, how: str) -> Tensor:
            if how == "add":
                return torch.stack(outputs[:count]).sum(0)
            assert self.merge is not None
            return cast(Tensor, self.merge(torch.cat(outputs[:count], 1), out, chunks=count))

        def joined(count: int) -> Tensor:
            if count == 1:
                return cast(Tensor, outputs[0])
            return mix(pick["merge"], self.sizes.merges, lambda how: merged(count, how))

        return mix(branches, self.sizes.branches, joined)

    def write(self, target: SlotLayer) -> None:
        """Copy one choice into a network of its own."""
        for shared, branch in zip(self.bodies, target.branches, strict=False):
            layers = [layer for layer in cast(Body, branch) if isinstance(layer, ConvNorm)]
            for source, layer in zip(cast(SharedBody, shared), layers, strict=True):
                cast(SharedConvNorm, source).write(layer)
        if target.merge is not None:
            cast(SharedConvNorm, self.merge).write(target.merge, target.slot.branches)
        if target.dense is not None:
            cast(SharedConvNorm, self.dense).write(target.dense, 2)


class MacroSupernet(Supernet):
    """Stages of shared slots; every parameter can be mixed.

    Args:
        space: The macro space.
        alpha_init: See `Supernet`.
    """

    space: MacroSpace

    def __init__(self, space: MacroSpace, *, alpha_init: str = "zero") -> None:
        super().__init__(space, alpha_init=alpha_init)
        self.transitions, self.slots = nn.ModuleList(), nn.ModuleList()
        channels, shape = space.in_channels, space.input_shape
        for stage in range(1, space.stages + 1):
            width = max(self._choices(f"stage{stage}.width"))
            operation = space.transition(stage, shape, width)
            stride = dict(operation.options)["stride"]
            self.transitions.append(
                SharedConvNorm(channels, width, (3,), stride=stride, norm=space.norm, group=space.group)
            )
            slots = (self._make_slot(stage, slot, width) for slot in range(1, space.slots + 1))
            self.slots.append(nn.ModuleList(slots))
            channels, shape = width, operation.output_shape
        self.head = make_head(channels, space.classes, space.head_units)
        self.has_norm = space.norm == "batch"
        self._register_masks()

    def _choices(self, name: str) -> tuple[int, ...]:
        return cast(tuple[int, ...], self.space.parameters[name].choices)

    def _make_slot(self, stage: int, slot: int, width: int) -> nn.ModuleList:
        """One arm for each kind of layer that the slot may hold, in the order of the choices."""
        layers, *rest = (self.space.parameters[f"stage{stage}.slot{slot}.{part}"].choices for part in PARTS)
        sizes = Sizes(width, *rest, self.space.norm, self.space.group)  # type: ignore[call-arg, arg-type]
        return nn.ModuleList(SharedArm(str(layer), sizes) for layer in layers)

    def _register_masks(self) -> None:
        """Constant masks: of each width, and of each pair of width and expansion."""
        for stage in range(1, self.space.stages + 1):
            widths = self._choices(f"stage{stage}.width")
            self.register_buffer(f"width_masks{stage}", _prefixes(widths, max(widths)), persistent=False)
            for slot in range(1, self.space.slots + 1):
                expansions = self._choices(f"stage{stage}.slot{slot}.expansion")
                counts = [width * expansion for width, expansion in itertools.product(widths, expansions)]
                masks = _prefixes(counts, max(counts)).unflatten(0, (len(widths), len(expansions)))
                self.register_buffer(f"inner_masks{stage}_{slot}", masks, persistent=False)

    def forward(self, images: Tensor, picks: Picks) -> Tensor:
        """Logits ``[batch, classes]`` of images ``[batch, in_channels, height, width]``."""
        x = images
        for stage in self.stages():
            x = stage.run(x, picks)
        return x

    def stages(self) -> Sequence[Stage]:
        """One for each stage of the space, then the head."""

        def of_stage(number: int) -> Stage:
            names = tuple(name for name in self.space.parameters if name.startswith(f"stage{number}."))
            return Stage(names, lambda x, picks: self._stage(x, number, picks))

        numbers = range(1, self.space.stages + 1)
        return (*(of_stage(number) for number in numbers), Stage((), lambda x, picks: self._classify(x)))

    def _stage(self, x: Tensor, stage: int, picks: Picks) -> Tensor:
        width, depth = picks[f"stage{stage}.width"], picks[f"stage{stage}.depth"]
        out = self._width(stage, width)
        x = F.relu(self.transitions[stage - 1](x, out))
        depths = self._choices(f"stage{stage}.depth")
        needed = max(depths) if depth.weights is not None else depths[cast(int, depth.index)]
        outputs = []
        for slot, arms in enumerate(cast(Sequence[nn.ModuleList], self.slots[stage - 1]), start=1):
            if slot <= needed:
                x = self._slot(x, stage, slot, arms, out, picks)
            outputs.append(x)
        return mix(depth, [outputs[min(d, needed) - 1] for d in depths], lambda output: output)

    @torch.no_grad()
    def recalibrate(self, architecture: Architecture, loader: Iterable[tuple[Tensor, Tensor]], batches: int) -> None:
        """Set the running statistics of one path to the plain mean over some batches; see `Supernet.recalibrate`."""
        if not self.has_norm:
            return
        layers = [module for module in self.modules() if isinstance(module, SharedConvNorm)]
        path, training = self.path(architecture), self.training
        for layer in layers:  # nothing else asks whether it is trained, and a walk over all modules takes as long
            layer.training = True
        for number, (images, _) in enumerate(itertools.islice(loader, batches), start=1):
            for layer in layers:
                layer.momentum = 1 / number
            self(images, path)
        for layer in layers:
            layer.momentum, layer.training = MOMENTUM, training

    def _width(self, stage: int, pick: Pick) -> Channels:
        widths = self._choices(f"stage{stage}.width")
        if pick.weights is None:
            return Channels(widths[cast(int, pick.index)])
        return Channels(max(widths), pick.weights @ self.get_buffer(f"width_masks{stage}"))

    def _slot(self, x: Tensor, stage: int, slot: int, arms: nn.ModuleList, out: Channels, picks: Picks) -> Tensor:
        prefix = f"stage{stage}.slot{slot}."
        pick = {part: picks[prefix + part] for part in PARTS}
        width, expansion = picks[f"stage{stage}.width"], pick["expansion"]
        expansions = self._choices(f"{prefix}expansion")
        if width.weights is None and expansion.weights is None:
            inner = Channels(out.count * expansions[cast(int, expansion.index)])
        else:
            masks = self.get_buffer(f"inner_masks{stage}_{slot}")
            weights = _weights(width, masks, 0), _weights(expansion, masks, 1)
            inner = Channels(masks.shape[-1], torch.einsum("w,e,wec->c", *weights, masks))
        return mix(pick["layer"], arms, lambda arm: arm(x, out, inner, pick))

    def _classify(self, x: Tensor) -> Tensor:
        """Pooling and the linear layers, of which the first sees as many channels as there are."""
        first, *rest = (module for module in self.head.children() if isinstance(module, nn.Linear))
        y = F.linear(x.mean((2, 3)), first.weight[:, : x.shape[1]], first.bias)
        return cast(Tensor, rest[0](F.relu(y))) if rest else y

    def cost_model(self, table: Mapping[str, float]) -> CostModel:
        """The exact expectation: widths form a chain from stage to stage, and slots depend on their stage's width."""
        if error := self.missing(table):
            raise error
        return _StageCosts(self.space, table, self._alphas[0].detach())

    @torch.no_grad()
    def extract(self, architecture: Architecture) -> nn.Module:
        """One architecture's own network with a copy of the shared weights and statistics."""
        # Weights are drawn, to be overwritten.
        with seeded(0), torch.device(self._alphas[0].device):
            network = cast(nn.Sequential, self.space.build(architecture))
        params = architecture.params
        modules = iter(network.children())
        for stage, (transition, slots) in enumerate(zip(self.transitions, self.slots, strict=True), start=1):
            cast(SharedConvNorm, transition).write(cast(ConvNorm, cast(Transition, next(modules))[0]))
            depth = cast(int, params[f"stage{stage}.depth"])
            for slot, arms in enumerate(cast(Sequence[nn.ModuleList], slots), start=1):
                if slot > depth:
                    break
                name = f"stage{stage}.slot{slot}.layer"
                layer = next(modules)
                if isinstance(layer, SlotLayer):
                    cast(SharedArm, arms[self.space.parameters[name].choices.index(params[name])]).write(layer)
        for source, target in zip(self.head.children(), next(modules).children(), strict=True):
            if isinstance(target, nn.Linear) and isinstance(source, nn.Linear):
                target.weight.copy_(source.weight[:, : target.in_features])
                target.bias.copy_(source.bias)
        return network

    def smallest(self) -> dict[str, Choice]:
        """The least width and depth, and in every slot the layer with the least work."""
        cheapest = ("skip", "maxpool", "avgpool", "ds", "ir", "conv")
        params: dict[str, Choice] = {}
        for name, parameter in self.space.parameters.items():
            if name.endswith(".layer"):
                params[name] = min(parameter.choices, key=lambda layer: cheapest.index(str(layer)))
            else:
                params[name] = min(parameter.choices) if parameter.ordered else parameter.choices[0]  # type: ignore[type-var]
        return params


def _prefixes(counts: Sequence[int], size: int) -> Tensor:
    """``[len(counts), size]``: ones in the first so many places, zeros behind."""
    return (torch.arange(size)[None] < torch.tensor(counts)[:, None]).float()


def _weights(pick: Pick, masks: Tensor, axis: int) -> Tensor:
    """The weights of a pick, one-hot where it has none."""
    if pick.weights is not None:
        return pick.weights
    return F.one_hot(torch.tensor(pick.index, device=masks.device), masks.shape[axis]).to(masks.dtype)


class _StageCosts(CostModel):
    """The expected cost of a chain of stages.

    Given the width of a stage, the expected cost of a slot is the sum over its layers, weighted by the joint
    probability of its parts, times the probability that the stage is deep enough to use it.
    """

    def __init__(self, space: MacroSpace, table: Mapping[str, float], like: Tensor) -> None:
        self._space = space
        self._transitions: list[Tensor] = []  # a stage: [states before, widths]
        self._slots: list[list[Tensor]] = []  # a stage, a slot: [widths, joint choices]
        self._used: list[Tensor] = []  # a stage: [depths, slots], 1 where a slot is used
        shapes = [space.input_shape]
        for stage in range(1, space.stages + 1):
            widths = cast(tuple[int, ...], space.parameters[f"stage{stage}.width"].choices)
            found = [[space.transition(stage, shape, width) for width in widths] for shape in shapes]
            self._transitions.append(like.new_tensor([[table[op.key] for op in row] for row in found]))
            shapes = [op.output_shape for op in found[0]]
            slots = []
            for slot in range(1, space.slots + 1):
                names = [f"stage{stage}.slot{slot}.{part}" for part in PARTS]
                layers = [Slot.of(*v) for v in itertools.product(*(space.parameters[n].choices for n in names))]  # type: ignore[arg-type]
                costs = {(s, shape): table[space.slot_operation(s, shape).key] for s in set(layers) for shape in shapes}
                slots.append(like.new_tensor([[costs[layer, shape] for layer in layers] for shape in shapes]))
            self._slots.append(slots)
            depths = cast(tuple[int, ...], space.parameters[f"stage{stage}.depth"].choices)
            self._used.append(_prefixes(depths, space.slots).to(like))
        self._head = like.new_tensor([table[space.head_operation(shape).key] for shape in shapes])

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        state = self._head.new_ones(1)
        total = self._head.new_zeros(())
        for stage, (transition, slots, used) in enumerate(
            zip(self._transitions, self._slots, self._used, strict=True), start=1
        ):
            width = probabilities[f"stage{stage}.width"]
            total = total + state @ transition @ width
            share = probabilities[f"stage{stage}.depth"] @ used
            for slot, costs in enumerate(slots, start=1):
                joint = self._head.new_ones(1)
                for part in PARTS:
                    joint = torch.outer(joint, probabilities[f"stage{stage}.slot{slot}.{part}"]).flatten()
                total = total + share[slot - 1] * (width @ costs @ joint)
            state = width
        return total + state @ self._head
