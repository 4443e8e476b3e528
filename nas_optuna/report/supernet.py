"""The alpha figure: what a supernet preferred before and after its search, and how decided it became."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from optuna.study import Study

    from nas_optuna.oneshot.progress import Epoch
    from nas_optuna.spaces import SearchSpace

FIGURE_ID = "supernet-alphas"


def alpha_figure(space: SearchSpace, start: Mapping[str, Sequence[float]], history: Sequence[Epoch]) -> go.Figure:
    """Probabilities before and after as two heat maps, and each parameter's entropy over the epochs.

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
    figure = make_subplots(
        rows=3,
        subplot_titles=("before", f"after epoch {history[-1].number}", "entropy (nats)"),
        row_heights=[len(names), len(names), 6],
        vertical_spacing=0.06,
    )
    for place, alphas in ((1, start), (2, history[-1].alphas)):
        values = [probabilities(alphas[name]) for name in names]
        labels = [
            [f"{choice}<br>{p:.2f}" for choice, p in zip(space.parameters[name].choices, row, strict=True)]
            for name, row in zip(names, values, strict=True)
        ]
        figure.add_trace(
            go.Heatmap(
                z=[row + [None] * (width - len(row)) for row in values],
                text=[row + [""] * (width - len(row)) for row in labels],
                y=names,
                texttemplate="%{text}",
                hoverinfo="text+y",
                colorscale="Blues",
                zmin=0,
                zmax=1,
                showscale=False,
            ),
            row=place,
            col=1,
        )
    epochs = [0, *(epoch.number for epoch in history)]
    for name in names:
        first = -sum(p * math.log(p) for p in probabilities(start[name]) if p > 0)
        entropy = [first, *(epoch.entropy[name] for epoch in history)]
        figure.add_trace(go.Scatter(x=epochs, y=entropy, name=name, mode="lines"), row=3, col=1)
    for row in (1, 2):
        figure.update_yaxes(autorange="reversed", row=row)
        figure.update_xaxes(showticklabels=False, row=row)
    figure.update_xaxes(title_text="epoch", row=3, col=1)
    figure.update_layout(
        title_text="supernet: alphas", height=420 + 72 * len(names), legend={"y": 0, "yanchor": "bottom"}
    )
    return figure


def save_alpha_figure(
    study: Study, space: SearchSpace, start: Mapping[str, Sequence[float]], history: Sequence[Epoch]
) -> None:
    """Put the figure on the study's page in optuna-dashboard; a later one replaces it."""
    from optuna_dashboard import save_plotly_graph_object

    save_plotly_graph_object(study, alpha_figure(space, start, history), graph_object_id=FIGURE_ID)
