"""Made-up tables of many natures, on which a sampler has to lose nothing; no claim rests on how much it wins there.

Public tables of curves are few. Those here differ from each other in what a search must not take for granted: how many
networks and epochs there are, whether early epochs tell the end or its contrary, whether choices have an order, whether
layers can be absent, how noisy a value is, and by how much networks differ in cost.

    python benchmarks/made_up.py crossing --out crossing.npz

writes a file of the format of `tables.py`; `compare.py` knows the tables by their names as well.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Nature:
    """What a made-up table is like.

    Attributes:
        networks: How many there are.
        epochs: Of a whole training.
        layers: How many there can be.
        widths: Choices of a layer's width, which have an order.
        kinds: Choices of a layer's kind, which have none.
        absent: Whether layers can be absent; all choices of an absent layer are then ``none``.
        sizes: Whether anything is known of a network before it is trained.
        early: Correlation of what an epoch in the first half says with the end; below 0 it misleads.
        warm_up: Share of the epochs that stay at chance.
        drop: Whether curves leap at half and at three quarters of the epochs, as at a drop of the learning rate.
        dips: By how much every third epoch is lower, as with a cyclic learning rate.
        noise: Standard deviation of a value.
        dead: Share of the networks that stay at chance.
        spread: The costliest epoch's seconds over the cheapest's.
    """

    networks: int = 600
    epochs: int = 20
    layers: int = 4
    widths: int = 4
    kinds: int = 4
    absent: bool = False
    sizes: bool = True
    early: float = 0.7
    warm_up: float = 0.0
    drop: bool = False
    dips: float = 0.0
    noise: float = 0.003
    dead: float = 0.03
    spread: float = 4.0


NATURES = {
    "crossing": Nature(early=-0.5, drop=True),
    "uninformative": Nature(early=0.0, epochs=30),
    "warm-up": Nature(early=0.6, warm_up=0.35, epochs=30),
    "three-epochs": Nature(epochs=3, early=0.5),
    "two-hundred-epochs": Nature(epochs=200, dips=0.05, networks=400),
    "noisy": Nature(noise=0.02, early=0.5),
    "absent-layers": Nature(absent=True, layers=8, networks=1200, epochs=40),
    "unordered": Nature(widths=1, kinds=20, layers=10, absent=True, networks=1300),
    "unordered-unknown": Nature(widths=1, kinds=12, layers=6, sizes=False, early=0.3),
    "fifty": Nature(networks=50, epochs=10),
    "five-thousand": Nature(networks=5000, epochs=50, spread=50.0),
    "mostly-dead": Nature(dead=0.6, early=0.4),
}
"""Tables by name."""


def made_up(nature: Nature, seed: int = 0) -> dict[str, Any]:
    """The arrays of a table."""
    rng = np.random.default_rng(seed)
    per_layer = [nature.widths, nature.kinds]
    depth = rng.integers(max(1, nature.layers // 3), nature.layers + 1, 20 * nature.networks)
    depth = depth if nature.absent else np.full_like(depth, nature.layers)
    there = np.arange(nature.layers) < depth[:, None]
    drawn = np.stack([rng.integers(0, size, there.shape) for size in per_layer], 2)
    if nature.absent:
        drawn = np.where(there[..., None], drawn + 1, 0)
    choices = np.unique(drawn.reshape(len(drawn), -1), axis=0)
    choices = rng.permutation(choices)[: nature.networks]
    score = _score(choices, per_layer, nature, rng)
    return {
        "parameters": np.array(json.dumps(_parameters(nature))),
        "choices": choices.astype(np.int16),
        **_known(score, choices, nature, rng),
        "curves": _curves(score, nature, rng).astype(np.float32),
        "about": np.array(json.dumps({"source": "made up", "seed": seed, **asdict(nature)})),
    }


def _parameters(nature: Nature) -> dict[str, dict[str, Any]]:
    none = ["none"] * nature.absent
    found: dict[str, dict[str, Any]] = {}
    for layer in range(1, nature.layers + 1):
        found[f"layer{layer}.width"] = {"choices": [*none, *(8 * 2**i for i in range(nature.widths))], "ordered": True}
        found[f"layer{layer}.kind"] = {"choices": [*none, *(f"kind{i}" for i in range(nature.kinds))], "ordered": False}
    return found


def _score(choices: NDArray[np.int64], per_layer: list[int], nature: Nature, rng: np.random.Generator) -> Array:
    """How good each network is: effects of layers and of pairs of neighbours, of mean 0 and variance 1."""
    score = np.zeros(len(choices))
    kinds = rng.normal(size=nature.kinds + 1)
    for place in range(choices.shape[1]):
        here = choices[:, place]
        if place % 2:
            score += (0.7 * kinds + 0.7 * rng.normal(size=nature.kinds + 1))[here]
        else:
            score += np.cumsum(rng.normal(0, 0.7, nature.widths + 1))[here]
        other = (place + 1) % choices.shape[1]
        score += rng.normal(0, 0.6, (here.max() + 1, choices[:, other].max() + 1))[here, choices[:, other]]
    scaled: Array = (score - score.mean()) / (score.std() + 1e-9)
    return scaled


def _known(
    score: Array, choices: NDArray[np.int64], nature: Nature, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Sizes, one of which tells a little of the end, and seconds."""
    load = choices[:, ::2].sum(1) / max(1, choices[:, ::2].sum(1).max())
    numbers = np.stack([load, 0.5 * score + rng.normal(size=len(score)), np.ones(len(score))], 1)
    names = ["log_macs", "log_params", "resolution"]
    seconds = nature.spread ** ((load - load.min()) / (np.ptp(load) or 1.0))
    count = 3 if nature.sizes else 0
    return {"sizes": numbers[:, :count], "size_names": np.array(names[:count], str), "seconds": seconds}


def _curves(score: Array, nature: Nature, rng: np.random.Generator) -> Array:
    """Accuracy after each epoch: what early epochs show fades into the end."""
    own = nature.early * score + (1 - nature.early**2) ** 0.5 * rng.normal(size=len(score))
    final, early = (0.55 + 0.35 / (1 + np.exp(-z)) for z in (score, own))
    share = np.arange(1, nature.epochs + 1) / nature.epochs
    time = np.clip((share - nature.warm_up) / (1 - nature.warm_up), 0, 1)
    weight = 0.2 * (time > 0.5) + 0.6 * (time > 0.75) + 0.2 * time**2 if nature.drop else time**2
    curves = 0.1 + (1 - weight) * (early[:, None] - 0.1) * 0.8 * (1 - np.exp(-5 * time))
    curves = curves + weight * (final[:, None] - 0.1)
    curves -= nature.dips * (np.arange(nature.epochs) % 3 == 2) * (share < 0.9)
    dead = rng.random(len(score)) < nature.dead
    curves[dead] = 0.1
    return np.clip(curves + rng.normal(0, nature.noise, curves.shape), 0, 1)


def main() -> None:
    """Write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nature", choices=NATURES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the table, an .npz file")
    options = parser.parse_args()
    np.savez_compressed(options.out, **made_up(NATURES[options.nature], options.seed))


if __name__ == "__main__":
    main()
