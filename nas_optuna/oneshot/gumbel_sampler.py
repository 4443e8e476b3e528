"""Drawing one choice of every parameter for each step, without waiting for the device."""

from __future__ import annotations

import torch

from nas_optuna.spaces.supernet import GumbelSample, Supernet


class GumbelSampler:
    """Gumbel-max draws from a supernet's alphas (Jang et al. 2017, equation 1).

    Which candidate runs next is decided on the host, and alphas live on the device. Reading them in every step
    would stall it, so a draw uses the logits as they were one draw ago: their copy to the host has long
    ended when it is read. An alpha moves by about its learning rate in between. The gradient uses the current logits.
    """

    def __init__(self, supernet: Supernet, seed: int) -> None:
        self._supernet = supernet
        self._names = list(supernet.alphas)
        self._sizes = [len(alpha) for alpha in supernet.alphas.values()]
        self._device = next(iter(supernet.alphas.values())).device
        self.generator = torch.Generator().manual_seed(seed)  # of the host: the same noise on every device
        pinned = self._device.type == "cuda"
        self._copies = [torch.empty(sum(self._sizes), device="cpu", pin_memory=pinned) for _ in range(2)]
        self._events = [torch.Event(self._device) for _ in range(2)] if pinned else []
        self._turn = 0
        self.refresh()

    def refresh(self) -> None:
        """Read the alphas now, after they were set or at the start of an epoch."""
        flat = torch.cat([alpha.detach() for alpha in self._supernet.alphas.values()])
        self._copies[self._turn].copy_(flat, non_blocking=True)
        if self._events:
            self._events[self._turn].record()
        self._turn = 1 - self._turn

    def next(self, temperature: float) -> GumbelSample:
        """Draw every parameter."""
        before = 1 - self._turn
        if self._events:
            self._events[before].synchronize()
        logits = self._copies[before]
        self.refresh()
        noise = -torch.empty_like(logits).exponential_(generator=self.generator).log()
        perturbed = torch.split(logits + noise, self._sizes)
        on_device = torch.split(noise.to(self._device, non_blocking=True), self._sizes)
        return GumbelSample(
            {name: int(part.argmax()) for name, part in zip(self._names, perturbed, strict=True)},
            dict(zip(self._names, on_device, strict=True)),
            temperature,
        )
