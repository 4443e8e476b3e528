"""The block space's supernet: every candidate of every block, side by side (DARTS, FBNet, GDAS)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import cast

import torch
from torch import Tensor, nn

from nas_optuna.randomness import seeded
from nas_optuna.spaces.architecture import Architecture, Choice
from nas_optuna.spaces.block.layers import Block
from nas_optuna.spaces.block.space import SKIP, BlockSpace
from nas_optuna.spaces.supernet import CostModel, Pick, Stage, Supernet


class MixedBlock(nn.ModuleList):
    """The candidates of one block; each maps ``[batch, channels, side, side]`` to the same shape."""

    def forward(self, x: Tensor, pick: Pick) -> Tensor:
        """The weighted sum of all candidates, or the drawn one alone.

        A drawn candidate is multiplied by its straight-through weight, which is one: only its own logit's
        path gets a gradient from the loss, as in GDAS (Dong & Yang 2019, section 3.2).
        """
        if pick.index is None:
            assert pick.weights is not None
            parts: list[Tensor] = [w * candidate(x) for w, candidate in zip(pick.weights, self, strict=True)]
            return reduce(torch.add, parts)
        drawn: Tensor = self[pick.index](x)
        return drawn if pick.weights is None else drawn * pick.weights[pick.index]


class BlockSupernet(Supernet):
    """Stem, mixed blocks with poolings between them, head.

    Args:
        space: The block space.
        alpha_init: See `Supernet`.
    """

    space: BlockSpace

    def __init__(self, space: BlockSpace, *, alpha_init: str = "zero") -> None:
        super().__init__(space, alpha_init=alpha_init)
        self.stem = space.build_operation(space.stem())
        self.blocks = nn.ModuleList(
            MixedBlock(space.build_operation(space.block(str(candidate), size)) for candidate in parameter.choices)
            for parameter, size in zip(space.parameters.values(), space.sizes(), strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.head = space.build_operation(space.head())

    def calm(self) -> None:
        """Divide what each block adds by their number, and the head by ten (as Fixup does, Zhang et al. 2019).

        Kaiming's weights double the variance in every residual block, which nothing normalises: a network begins with a
        loss of 20 to 70.
        """
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, Block):
                    (module.project or module.expand).weight.div_(len(self.blocks))
                elif isinstance(module, nn.Linear):
                    module.weight.div_(10)

    def forward(self, images: Tensor, picks: Mapping[str, Pick]) -> Tensor:
        """Logits ``[batch, classes]`` of images ``[batch, in_channels, height, width]``."""
        x = images
        for stage in self.stages():
            x = stage.run(x, picks)
        return x

    def stages(self) -> Sequence[Stage]:
        """The stem, one for each block with the pooling after it, then the head."""

        def block_stage(number: int, name: str, block: nn.Module) -> Stage:
            after = self.pool if number in self.space.pool else nn.Identity()
            return Stage((name,), lambda x, picks: after(block(x, picks[name])))

        named = zip(self.space.parameters, self.blocks, strict=True)
        blocks = [block_stage(i, name, block) for i, (name, block) in enumerate(named, start=1)]
        return (Stage((), lambda x, picks: self.stem(x)), *blocks, Stage((), lambda x, picks: self.head(x)))

    def cost_model(self, table: Mapping[str, float]) -> CostModel:
        """The sum over blocks of the candidates' expected costs, and what every network has."""
        if error := self.missing(table):
            raise error
        space, like = self.space, self._alphas[0].detach()
        sizes = space.sizes()
        fixed = [space.stem(), space.head(), *(space.pooling(sizes[i - 1]) for i in sorted(space.pool))]
        costs = {
            name: like.new_tensor([table[space.block(str(c), size).key] for c in parameter.choices])
            for (name, parameter), size in zip(space.parameters.items(), sizes, strict=False)
        }
        return _SumOfBlocks(sum(table[op.key] for op in fixed), costs)

    def extract(self, architecture: Architecture) -> nn.Sequential:
        """One architecture's own network with a copy of the shared weights."""
        indices = self.space.tokens(architecture)
        chosen = (cast(MixedBlock, block)[i] for block, i in zip(self.blocks, indices, strict=True))
        parts = {"stem": iter([self.stem]), "head": iter([self.head]), "block": chosen, SKIP: chosen}
        # Weights are drawn, to be overwritten.
        with seeded(0), torch.device(self._alphas[0].device):
            network = cast(nn.Sequential, self.space.build(architecture))
        for operation, module in zip(self.space.operations(architecture), network, strict=True):
            if operation.kind in parts:
                module.load_state_dict(next(parts[operation.kind]).state_dict())
        return network

    def smallest(self) -> dict[str, Choice]:
        """``skip`` where it is a candidate, else the candidate with the fewest weights."""
        channels = self.space.channels

        def weights(candidate: str) -> int:
            options = dict(self.space.candidates[candidate])
            if not options:
                return 0
            filters = options["filters"]
            return filters * channels * (options["kernel"] ** 2 + (filters != channels))

        return {name: min(map(str, p.choices), key=weights) for name, p in self.space.parameters.items()}


class _SumOfBlocks(CostModel):
    def __init__(self, fixed: float, costs: Mapping[str, Tensor]) -> None:
        self._fixed = fixed
        self._costs = costs

    def __call__(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        names = list(self._costs)
        p = torch.cat([probabilities[name] for name in names])
        return p @ torch.cat([self._costs[name] for name in names]) + self._fixed
