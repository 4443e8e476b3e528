"""When a supernet has collapsed."""

from typing import Any

import pytest
from torch import nn

from nas_optuna.errors import TrainingError
from nas_optuna.oneshot.strategies.darts import require_no_collapse
from nas_optuna.spaces.block import BlockSpace
from nas_optuna.spaces.function import space as space_function
from nas_optuna.spaces.supernet import supernet_for


@space_function
def alike(c: Any, task: Any) -> nn.Module:
    """Choices of which none costs less than another."""
    act = c.layer("act", {"relu": nn.ReLU, "tanh": nn.Tanh})
    pool = c.layer("pool", {"max": lambda: nn.MaxPool2d(2), "avg": lambda: nn.AvgPool2d(2)})
    stem = nn.Conv2d(task.channels, 4, 3, padding=1)
    return nn.Sequential(stem, act, pool, nn.Flatten(), nn.Linear(64, task.classes))


def test_an_undecided_search_has_not_collapsed() -> None:
    supernet = supernet_for(BlockSpace(depth=2, candidates=("k3_f16", "k3_f24", "k5_f16"), input_size=8))
    assert supernet.derive() == {"block1": "k3_f16", "block2": "k3_f16"}, "the smallest"
    require_no_collapse(supernet)
    supernet.set_alphas({name: [9.0, 0.0, 0.0] for name in supernet.alphas})
    with pytest.raises(TrainingError, match="collapsed"):
        require_no_collapse(supernet)
    supernet.set_alphas({"block2": [0.0, 0.0, 9.0]})
    require_no_collapse(supernet)


@pytest.mark.parametrize("fixed", [{}, {"act": "tanh", "pool": "max"}], ids=["alike", "without a neighbour"])
def test_what_costs_the_same_whatever_is_chosen_has_not_collapsed(fixed: dict[str, str]) -> None:
    searched = alike(in_channels=1, classes=10, input_size=8).fixed(fixed)
    supernet = supernet_for(searched)
    supernet.set_alphas({name: [9.0, *[0.0] * (len(alpha) - 1)] for name, alpha in supernet.alphas.items()})
    require_no_collapse(supernet)
