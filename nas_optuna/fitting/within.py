"""A search that ends when time is up, rather than after a number of trials."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from optuna.study import Study

from nas_optuna.errors import SpecError
from nas_optuna.execution.events import Callback, OptunaCallback
from nas_optuna.execution.loop import Outcome, StopRequest
from nas_optuna.experiment import Experiment
from nas_optuna.fitting.clock import Progress, TimeBudget
from nas_optuna.fitting.plan import Plan
from nas_optuna.fitting.rungs import Search, last_rung, plan_for
from nas_optuna.study.schema import StudyKey


def run_within(
    experiment: Experiment,
    study: Study,
    budget: TimeBudget,
    *,
    stop: StopRequest,
    callbacks: Sequence[Callback | OptunaCallback] = (),
    say: Callable[[str], None],
) -> Outcome:
    """Train networks for about equal seconds, and the best of them for longer, until time is up."""
    # A run that was killed goes on with what it had decided, and with the time that it had left; one that has ended
    # begins anew, with the best so far.
    if experiment.data is None:
        raise SpecError("--within divides the time of our own training, and the study has an evaluator of its own")
    progress = Progress(study, StudyKey.WITHIN, budget, dict(study.user_attrs.get(StudyKey.WITHIN, {})))
    state = progress.state
    if state.get("done", True) or state["within"] != budget.total:
        plan = plan_for(experiment, budget.left, reserve=0.0, retrain=False)
        state |= {"plan": plan.to_dict(), "spent": 0.0, "from": last_rung(study) + 1, "done": False}
    budget.spent += state["spent"]
    progress.remember()
    before = _ended(study)
    plan = Plan.from_dict(state["plan"])
    say(f"{plan.describe()}; all within {budget.total:,.0f} s")
    deadline = time.monotonic() + budget.left
    told = [*callbacks, progress]
    Search(experiment, study, plan, stop, told, from_rung=state["from"], deadline=deadline).run(say)
    progress.remember(done=not stop.asked)
    return Outcome(_ended(study) - before, stop.asked)


def _ended(study: Study) -> int:
    return sum(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))
