"""The alphas' gradient, first and second order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Loss = Callable[[], Tensor]
"""Computes a scalar loss from the current weights and alphas, on a fixed batch with fixed draws."""


def gradient(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The gradient, zero for inputs that the loss does not use."""
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def unrolled_gradient(
    train_loss: Loss,
    alpha_loss: Loss,
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    *,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    buffers: Sequence[Tensor | None] | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The alphas' gradient through one SGD step of the weights."""
    # Liu et al. 2019 (DARTS), equation 7: the gradient of ``alpha_loss(w - ξ ∇w train_loss(w, α), α)``. Its second
    # term, a Hessian times a vector, is a central difference of the alphas' gradient at two weights, equation 8. The
    # weights are left as they were.
    start = [w.detach().clone() for w in weights]
    step = gradient(train_loss(), weights)
    with torch.no_grad():
        for i, (w, g) in enumerate(zip(weights, step, strict=True)):
            moved = g.add(w, alpha=weight_decay)
            if buffers is not None and (buffer := buffers[i]) is not None:
                moved = moved.add(buffer, alpha=momentum)
            w.sub_(moved, alpha=learning_rate)
    loss = alpha_loss()
    both = gradient(loss, [*alphas, *weights])
    direct, vector = both[: len(alphas)], both[len(alphas) :]
    norm = torch.stack([v.norm() for v in vector]).norm()
    epsilon = 0.01 / norm.clamp_min(1e-12)

    def at(sign: int) -> list[Tensor]:
        with torch.no_grad():
            for w, s, v in zip(weights, start, vector, strict=True):
                w.copy_(s + sign * epsilon * v)
        return gradient(train_loss(), alphas)

    above, below = at(1), at(-1)
    with torch.no_grad():
        for w, s in zip(weights, start, strict=True):
            w.copy_(s)
    scale = learning_rate / (2 * epsilon)
    return loss.detach(), [d - scale * (a - b) for d, a, b in zip(direct, above, below, strict=True)]
