"""Figures that optuna-dashboard lacks for several objectives: a front with named axes, and learning curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.study import Study
from optuna.trial import TrialState

from nas_optuna.objectives import describe
from nas_optuna.study.optuna_internals import read_once
from nas_optuna.study.records import TrialRecord
from nas_optuna.study.schema import TrialKey, attribute

if TYPE_CHECKING:
    import plotly.graph_objects as go

HEIGHT = 430
"""Pixels that optuna-dashboard's card for a figure has room for; what is higher is cut off."""
STYLE = {
    "height": HEIGHT,
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"size": 11, "color": "#7d8797"},
}
"""Layout of every stored figure. It cannot follow optuna-dashboard's light or dark theme, so it is readable on both."""
GRID = {"gridcolor": "rgba(125,135,151,.25)", "zerolinecolor": "rgba(125,135,151,.25)"}


def save_figures(study: Study) -> None:
    """Put the figures of a study of several objectives on its page, in place of earlier ones."""
    if len(study.directions) < 2:
        return
    from optuna_dashboard import save_plotly_graph_object

    save_plotly_graph_object(study, front_figure(study), graph_object_id="front")
    save_plotly_graph_object(study, curves_figure(study), graph_object_id="curves")


def front_figure(study: Study) -> go.Figure:
    """The first objective against the second, with the front marked."""
    import plotly.graph_objects as go

    study = read_once(study)
    names = study.metric_names or [f"objective {i + 1}" for i in range(len(study.directions))]
    front = {trial.number for trial in study.best_trials}
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    figure = go.Figure()
    for name, on_front in (("other complete trials", False), ("the front", True)):
        trials = [trial for trial in complete if (trial.number in front) == on_front]
        figure.add_trace(
            go.Scatter(
                x=[t.values[1] for t in trials],
                y=[t.values[0] for t in trials],
                text=[f"trial {t.number}: {TrialRecord.of(t).architecture}" for t in trials],
                mode="markers",
                name=name,
            )
        )
    figure.update_layout(
        title=f"{describe(names[0]).heading} against {describe(names[1]).heading}",
        xaxis_title=describe(names[1]).heading,
        yaxis_title=describe(names[0]).heading,
        legend={"orientation": "h", "y": -0.25},
        **STYLE,
    )
    figure.update_xaxes(GRID).update_yaxes(GRID)
    return figure


def curves_figure(study: Study) -> go.Figure:
    """What each trial was pruned by, after each epoch."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for trial in study.get_trials(deepcopy=False):
        reports: dict[str, float] = attribute(trial, TrialKey.REPORTS, {})
        points = sorted((int(epoch), value) for epoch, value in reports.items())
        if points:
            epochs, values = zip(*points, strict=True)
            opacity = 0.3 if trial.state == TrialState.PRUNED else 1.0
            name = f"trial {trial.number}"
            figure.add_trace(go.Scatter(x=epochs, y=values, name=name, opacity=opacity, mode="lines+markers"))
    figure.update_layout(title="Learning curves (pale: pruned)", **STYLE)
    last = max((x for trace in figure.data for x in trace.x), default=1)
    figure.update_xaxes(GRID, title="epoch", dtick=epoch_step(last))
    figure.update_yaxes(GRID, title="what trials are pruned by")
    return figure


def epoch_step(last: int) -> int:
    """Epochs from tick to tick, whole ones."""
    return max(1, -(-last // 8))
