"""What specs of earlier releases said otherwise, translated once, where a spec is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CHOSE_DARTS = frozenset(
    {
        "update",
        "order",
        "warmup_epochs",
        "momentum",
        "alpha_learning_rate",
        "alpha_weight_decay",
        "temperature",
        "temperature_decay",
    }
)
"""Release 0.2 stored no strategy beside these, because naming one of them chose ``"darts"``."""
_STRATEGY_OF_MODE = {"mixture": "darts", "sampled": "gumbel"}


def supernet_section(values: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a ``[supernet]`` section of release 0.2, whose strategy ``"darts"`` had two modes.

    Examples:
        >>> supernet_section({"strategy": "darts", "mode": "sampled", "order": 2})
        {'strategy': 'gumbel', 'order': 2}
    """
    rest = {key: value for key, value in values.items() if key != "mode"}
    mode = values.get("mode")
    if mode is not None:
        if mode not in _STRATEGY_OF_MODE:
            raise ValueError(f"mode is mixture (strategy darts) or sampled (strategy gumbel), not {mode!r}")
        if rest.get("strategy", "darts") not in ("darts", _STRATEGY_OF_MODE[mode]):
            raise ValueError(f"strategy {rest['strategy']!r} has no mode; leave one of the two out")
        return rest | {"strategy": _STRATEGY_OF_MODE[mode]}
    if "strategy" not in rest and any(rest.get(key) is not None for key in _CHOSE_DARTS):
        return rest | {"strategy": "darts"}
    return rest
