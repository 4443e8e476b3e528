"""How one network is trained."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field

from nas_optuna.digests import hex_digest
from nas_optuna.quantities import LARGEST
from nas_optuna.spec_text import Settings

Fill = Literal["black", "reflect"]
"""What fills the border of a shifted image."""

_Pixels = Annotated[int, Field(ge=1, le=32_768)]  # `nas_optuna.data.pixels` takes no more


_ADDED = ("epoch_size", "decay_norms", "label_smoothing", "shift_fill", "mix", "progressive")
"""Settings that recipes of release 0.2 did not have; their defaults change nothing."""


class Recipe(Settings):
    """How one network is trained.

    Attributes:
        epochs: Passes over the training images, or over `epoch_size` of them.
        epoch_size: Training images per epoch; None is all. Every image is used before one is repeated, also across
            epochs. A small epoch reports sooner, and lets a short training see a part of large data.
        batch_size: Images per step.
        optimizer: ``"sgd"`` or ``"adamw"``.
        learning_rate: Peak learning rate.
        momentum: SGD's momentum.
        weight_decay: Decoupled for AdamW, L2 for SGD.
        decay_norms: Whether `weight_decay` also shrinks biases and the weights of norm layers.
        label_smoothing: Share of each label that is spread over all classes (Szegedy et al. 2016, section 7).
        schedule: ``"constant"``; ``"cosine"`` to zero over all steps; ``"one-cycle"`` rises linearly to the peak over
            the first fifth of the steps and falls linearly to zero (Smith & Topin 2018).
        init: ``"default"`` is torch's own; ``"kaiming"`` is normal with fan-in for ReLU, zero biases.
        input_size: Side in pixels to which images are resized, or ``[height, width]``; None keeps the data set's.
        precision: ``"auto"`` is bfloat16 autocast on CUDA devices that support it, float16 with a gradient scaler on
            others, and float32 elsewhere. ``"mixed"`` also uses bfloat16 on processors with instructions for it, where
            a step takes about half the time.
        seed: Seed of initial weights, batch order and augmentation; the same for every trial, so that only the
            architectures differ.
        repeats: Train with this many seeds (`seed`, `seed + 1`, …) and score by the mean.
        shift: Augmentation: shift by up to this many pixels of the raw image; ``"auto"`` is a tenth of its side,
            and of the shorter one where nothing would be left of an image in black.
        shift_fill: How a shift fills the border: ``"black"``, or ``"reflect"`` for a mirror image.
        flip: Augmentation: mirror half of the images. ``"auto"`` does so unless a mirrored image shows something else,
            like a letter: if all class names have one character, or by a linear test of the images.
        cutout: Augmentation: blank a square of this side in raw pixels; 0 turns it off.
        mix: Augmentation: share of images into which a part of another image is pasted, with its share of the label
            (CutMix, Yun et al. 2019). ``"auto"`` is a half if a training sees its images 30 times, else none.
        progressive: Share of the steps, from the first, in which the network sees images of five eighths of their side
            and a step takes half the time (progressive resizing, Tan & Le 2021, section 4). If a clock ends the
            training, it is a share of the time. ``"auto"`` is 0.6 if a training sees its images fewer than 25 times,
            else 0. Images below 32 pixels a side, and networks that take only one size, keep their size.
        cuda_graphs: Replay each step as a CUDA graph on CUDA devices, from torch 2.12 on. A network's Python code then
            runs only in the first steps and in the last batch of an epoch, if that is smaller. A network that draws
            from torch's, Python's or NumPy's global generator on the host is trained without graphs.
        compile: Use ``torch.compile``; pays only in trainings much longer than a minute.

    Examples:
        >>> Recipe(epochs=10, optimizer="sgd", learning_rate=0.05, flip=True).fingerprint != Recipe().fingerprint
        True
    """

    epochs: int = Field(default=5, ge=1)
    epoch_size: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=64, ge=1)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(default=3e-3, gt=0, lt=LARGEST)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, lt=LARGEST)
    decay_norms: bool = True
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    schedule: Literal["constant", "cosine", "one-cycle"] = "cosine"
    init: Literal["default", "kaiming"] = "kaiming"
    input_size: _Pixels | tuple[_Pixels, _Pixels] | None = None
    precision: Literal["auto", "mixed", "fp32", "bf16", "fp16"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**52)  # further repeats have the next ones
    repeats: int = Field(default=1, ge=1)
    shift: Annotated[int, Field(ge=0)] | Literal["auto"] = 0
    flip: bool | Literal["auto"] = False
    cutout: int = Field(default=0, ge=0)
    shift_fill: Fill = "black"
    mix: Annotated[float, Field(ge=0, le=1)] | Literal["auto"] = 0.0
    progressive: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = 0.0
    cuda_graphs: bool = True
    compile: bool = False

    def passes(self, images: int) -> float:
        """How often a training by this recipe sees each of so many images."""
        return self.epochs * (self.epoch_size or images) / max(1, images)

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting, JSON-ready; newer ones only if they are set, so that older fingerprints stay the same."""
        values = self.model_dump(mode="json")
        return {k: v for k, v in values.items() if k not in _ADDED or v != type(self).model_fields[k].default}

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that differ whenever two recipes would train different networks."""
        text = json.dumps(self.settings, sort_keys=True)
        return hex_digest(text, 12, "sha256")
