"""How good a search is after equal numbers of epochs: ``compare.py regret --clock epochs``, the table's name first.

Regret is the final accuracy of the table's best network minus that of the best network that was trained to the end, in
percentage points, after so many full-training equivalents (FTE): the epochs of so many whole trainings, spent in any
way. The ratio is that of the mean regret to the mean regret of random search over whole trainings.

``hyperband`` is random search with Optuna's pruner of that name. ``one-epoch`` trains random networks for one epoch for
half of the budget, and the three best of them to the end; each budget is a search of its own.

    python benchmarks/equal_epochs.py --table FILE.npz --seeds 12 --budgets 5,10,20,40 --json OUT
"""

from __future__ import annotations

import sys

from compare import main

SAMPLERS = "random,tpe,hyperband,one-epoch,arch,curves"

if __name__ == "__main__":
    main(["regret", "--clock", "epochs", "--samplers", SAMPLERS, *sys.argv[1:]])
