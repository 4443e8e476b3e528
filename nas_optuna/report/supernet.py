"""The alpha figure: what a supernet prefers after its training, and how decided it became."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nas_optuna.report.figures import GRID, STYLE, epoch_step

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from optuna.study import Study

    from nas_optuna.oneshot.progress import Epoch
    from nas_optuna.spaces import SearchSpace

FIGURE_ID = "supernet-alphas"
MOST_ROWS = 24
"""Parameters up to which each cell has its text; with more there is no room for it."""


def alpha_figure(space: SearchSpace, start: Mapping[str, Sequence[float]], history: Sequence[Epoch]) -> go.Figure:
    """Probabilities after the last epoch as a heat map, and each parameter's entropy over the epochs.

    Args:
        space: Names the choices.
        start: Parameter name → logits before the first epoch.
        history: The epochs, at least one.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from nas_optuna.samplers.prior import probabilities

    names = list(space.parameters)
    width = max(len(p.choices) for p in space.parameters.values())
    titles = (f"probability after epoch {history[-1].number}", "entropy (nats)")
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, column_widths=[0.64, 0.36], horizontal_spacing=0.1)
    alphas = history[-1].alphas
    values = [probabilities(alphas[name]) for name in names]
    labels = [
        [f"{choice}: {p:.2f}" for choice, p in zip(space.parameters[name].choices, row, strict=True)]
        for name, row in zip(names, values, strict=True)
    ]
    figure.add_trace(
        go.Heatmap(
            z=[row + [None] * (width - len(row)) for row in values],
            text=[row + [""] * (width - len(row)) for row in labels],
            y=names,
            texttemplate="%{text}" if len(names) <= MOST_ROWS else "",
            hoverinfo="text+y",
            colorscale="Blues",
            zmin=0,
            zmax=1,
            showscale=False,
        ),
        row=1,
        col=1,
    )
    epochs = [0, *(epoch.number for epoch in history)]
    for name in names:
        first = -sum(p * math.log(p) for p in probabilities(start[name]) if p > 0)
        entropy = [first, *(epoch.entropy[name] for epoch in history)]
        line = go.Scatter(x=epochs, y=entropy, name=name, mode="lines", showlegend=False, hoverinfo="name+x+y")
        figure.add_trace(line, row=1, col=2)
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, row=1, col=1)
    figure.update_xaxes(showticklabels=False, showgrid=False, row=1, col=1)
    figure.update_xaxes(GRID, title_text="epoch", dtick=epoch_step(history[-1].number), row=1, col=2)
    figure.update_yaxes(GRID, row=1, col=2)
    margin = {"t": 70, "b": 45, "l": 10, "r": 10}
    figure.update_layout(title_text="What the supernet prefers", margin=margin, **STYLE)
    return figure


def save_alpha_figure(
    study: Study, space: SearchSpace, start: Mapping[str, Sequence[float]], history: Sequence[Epoch]
) -> None:
    """Put the figure on the study's page in optuna-dashboard; a later one replaces it."""
    from optuna_dashboard import save_plotly_graph_object

    save_plotly_graph_object(study, alpha_figure(space, start, history), graph_object_id=FIGURE_ID)
