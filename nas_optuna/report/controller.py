"""The controller's entropy over time, for the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.study import Study

from nas_optuna.report.figures import GRID, STYLE
from nas_optuna.study.schema import TrialKey, attribute

if TYPE_CHECKING:
    import plotly.graph_objects as go

GRAPH = "controller-entropy"
"""Id of the figure in optuna-dashboard."""


def entropy_figure(study: Study) -> go.Figure | None:
    """The policy's entropy when it proposed each trial, in nats per token; None where no controller proposed any.

    It begins at the mean logarithm of the numbers of choices, where all are equally likely, and falls as the
    controller makes up its mind; at 0 it would propose one architecture only.
    """
    points = [
        (t.number, entropy)
        for t in study.get_trials(deepcopy=False)
        if (entropy := attribute(t, TrialKey.ENTROPY)) is not None
    ]
    if not points:
        return None
    import plotly.graph_objects as go

    numbers, entropies = zip(*points, strict=True)
    figure = go.Figure(go.Scatter(x=numbers, y=entropies, mode="lines+markers"))
    figure.update_layout(
        title="Entropy of the controller's policy",
        xaxis=GRID | {"title": "trial"},
        yaxis=GRID | {"title": "nats per token", "rangemode": "tozero"},
        **STYLE,
    )
    return figure


def save_entropy(study: Study) -> None:
    """Put the figure among the study's graphs in optuna-dashboard, in place of an earlier one."""
    figure = entropy_figure(study)
    if figure is not None:
        from optuna_dashboard import save_plotly_graph_object

        save_plotly_graph_object(study, figure, graph_object_id=GRAPH)
