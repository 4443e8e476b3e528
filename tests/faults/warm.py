"""Imported once by the process that workers are forked from, so that none of them has to import what a training needs.

It trains with one thread, because a fork has none of its parent's threads and would wait for them.
"""

import tempfile

import optuna
from optuna.trial import FixedTrial

from nas_optuna.study.storage import open_storage
from tests.faults.harness import SPACE, objective

with tempfile.TemporaryDirectory() as folder:
    study = optuna.create_study(storage=open_storage(f"sqlite:///{folder}/s.db", create=True))
    study.ask()
objective(None)(FixedTrial(dict(next(SPACE.enumerate()).params)))
