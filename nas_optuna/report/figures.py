"""Figures that optuna-dashboard lacks: a front with named axes, curves by which trials are pruned, alphas, entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from optuna.study import Study
from optuna.trial import TrialState

from nas_optuna.objectives import describe
from nas_optuna.report.facts import StudyFacts, titles_of
from nas_optuna.study.best import front_trials
from nas_optuna.study.schema import TrialKey, attribute

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nas_optuna.oneshot.progress import Epoch
    from nas_optuna.spaces import SearchSpace
    from nas_optuna.study.supernet_result import SupernetResult

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

ENTROPY_GRAPH = "controller-entropy"
ALPHAS_GRAPH = "supernet-alphas"
MAX_ROWS = 24
"""Parameters up to which each cell of the alphas has its text; with more there is no room for it."""


def save_figures(study: Study) -> None:
    """Put the figures of a study of several objectives on its page, in place of earlier ones."""
    if len(study.directions) > 1:
        _save(study, front_figure(study), "front")
        _save(study, curves_figure(study), "curves")


def _save(study: Study, figure: go.Figure, name: str) -> None:
    from optuna_dashboard import save_plotly_graph_object

    save_plotly_graph_object(study, figure, graph_object_id=name)


def _figure(title: str, x: str, y: str, lines: Sequence[dict[str, Any]], **layout: Any) -> go.Figure:
    """Lines or dots on two axes, each as `plotly.graph_objects.Scatter` takes it."""
    import plotly.graph_objects as go

    figure = go.Figure([go.Scatter(**line) for line in lines])
    return figure.update_layout(title=title, **STYLE, **layout).update_xaxes(GRID, title=x).update_yaxes(GRID, title=y)


def front_figure(study: Study) -> go.Figure:
    """The first objective against the second, with the front marked."""
    facts = StudyFacts(study)
    first, second = (describe(name).heading for name in facts.names[:2])
    front = {trial.number for trial in front_trials(facts.study)}
    complete = [trial for trial in facts.trials if trial.state == TrialState.COMPLETE]
    dots = []
    for name, on_front in (("other complete trials", False), ("the front", True)):
        trials = [trial for trial in complete if (trial.number in front) == on_front]
        x, y = [t.values[1] for t in trials], [t.values[0] for t in trials]
        dots.append({"x": x, "y": y, "text": titles_of(trials), "mode": "markers", "name": name})
    return _figure(f"{first} against {second}", second, first, dots, legend={"orientation": "h", "y": -0.25})


def curves_figure(study: Study) -> go.Figure:
    """What each trial was pruned by, after each epoch."""
    curves: list[dict[str, Any]] = []
    for trial in study.get_trials(deepcopy=False):
        reports: dict[str, float] = attribute(trial, TrialKey.REPORTS, {})
        if points := sorted((int(epoch), value) for epoch, value in reports.items()):
            epochs, values = zip(*points, strict=True)
            opacity = 0.3 if trial.state == TrialState.PRUNED else 1.0
            curves.append({"x": epochs, "y": values, "name": f"trial {trial.number}", "opacity": opacity})
    figure = _figure(
        "Learning curves (pale: pruned)",
        "epoch",
        "what trials are pruned by",
        [curve | {"mode": "lines+markers"} for curve in curves],
    )
    return figure.update_xaxes(dtick=epoch_step(max((x for curve in curves for x in curve["x"]), default=1)))


def epoch_step(last: int) -> int:
    """Epochs from tick to tick, whole ones."""
    return max(1, -(-last // 8))


def entropy_figure(study: Study) -> go.Figure | None:
    """The policy's entropy when it proposed each trial, in nats per token; None where no controller proposed any."""
    # It begins at the mean logarithm of the numbers of choices, where all are equally likely, and falls as the
    # controller makes up its mind; at 0 it would propose one architecture only.
    entropies = [(t.number, attribute(t, TrialKey.ENTROPY)) for t in study.get_trials(deepcopy=False)]
    points = [point for point in entropies if point[1] is not None]
    if not points:
        return None
    x, y = zip(*points, strict=True)
    line = {"x": x, "y": y, "mode": "lines+markers"}
    return _figure("Entropy of the controller's policy", "trial", "nats per token", [line]).update_yaxes(
        rangemode="tozero"
    )


def save_entropy(study: Study) -> None:
    """Put the figure among the study's graphs in optuna-dashboard, in place of an earlier one."""
    if (figure := entropy_figure(study)) is not None:
        _save(study, figure, ENTROPY_GRAPH)


def alpha_figure(space: SearchSpace, result: SupernetResult, history: Sequence[Epoch]) -> go.Figure:
    """Probabilities of the alphas as a heat map, and each parameter's entropy over the epochs that trained them."""
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
        texttemplate="%{text}" if len(names) <= MAX_ROWS else "",
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
    _save(study, alpha_figure(space, result, history), ALPHAS_GRAPH)
