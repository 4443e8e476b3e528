"""The alpha figure: what a supernet prefers after its training, and how decided it became."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nas_optuna.report.figures import GRID, STYLE, epoch_step

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from optuna.study import Study

    from nas_optuna.oneshot.progress import Epoch
    from nas_optuna.spaces import SearchSpace
    from nas_optuna.study.supernet_result import SupernetResult

FIGURE_ID = "supernet-alphas"
MOST_ROWS = 24
"""Parameters up to which each cell has its text; with more there is no room for it."""


def alpha_figure(space: SearchSpace, result: SupernetResult, history: Sequence[Epoch]) -> go.Figure:
    """Probabilities of the alphas as a heat map, and each parameter's entropy over the epochs that trained them.

    Args:
        space: Names the choices.
        result: What the supernet found.
        history: The epochs.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    from nas_optuna.study.supernet_result import entropy

    names, epochs = list(space.parameters), [epoch for epoch in history if epoch.alphas]
    width = max(len(p.choices) for p in space.parameters.values())
    titles = ["probability"] + ["entropy (nats)"] * bool(epochs)
    widths = [0.64, 0.36] if epochs else None
    figure = make_subplots(1, len(titles), subplot_titles=titles, column_widths=widths, horizontal_spacing=0.1)
    shares = result.probabilities()
    labels = [
        [f"{choice}: {p:.2f}" for choice, p in zip(space.parameters[name].choices, shares[name], strict=True)]
        for name in names
    ]
    heat = go.Heatmap(
        z=[shares[name] + [None] * (width - len(shares[name])) for name in names],
        text=[row + [""] * (width - len(row)) for row in labels],
        y=names,
        texttemplate="%{text}" if len(names) <= MOST_ROWS else "",
        hoverinfo="text+y",
        colorscale="Blues",
        zmin=0,
        zmax=1,
        showscale=False,
    )
    figure.add_trace(heat, row=1, col=1)
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False, row=1, col=1)
    figure.update_xaxes(showticklabels=False, showgrid=False, row=1, col=1)
    for name in (epochs[0].alphas or {}) if epochs else ():
        x, y = [epoch.number for epoch in epochs], [entropy((epoch.alphas or {})[name]) for epoch in epochs]
        line = go.Scatter(x=x, y=y, name=name, mode="lines", showlegend=False, hoverinfo="name+x+y")
        figure.add_trace(line, row=1, col=2)
    if epochs:
        figure.update_xaxes(GRID, title_text="epoch", dtick=epoch_step(epochs[-1].number), row=1, col=2)
        figure.update_yaxes(GRID, row=1, col=2)
    margin = {"t": 70, "b": 45, "l": 10, "r": 10}
    figure.update_layout(title_text="What the supernet prefers", margin=margin, **STYLE)
    return figure


def save_alpha_figure(study: Study, space: SearchSpace, result: SupernetResult, history: Sequence[Epoch]) -> None:
    """Put the figure on the study's page in optuna-dashboard; a later one replaces it."""
    from optuna_dashboard import save_plotly_graph_object

    save_plotly_graph_object(study, alpha_figure(space, result, history), graph_object_id=FIGURE_ID)
