"""The figures of the page, as plotly's own description of them ({"data": [...], "layout": {...}}).

Colours of text, lines and background are left to the page, which knows whether it is light or dark.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gan_lab.objectives import Direction
from gan_lab.report.leaderboard import Board, dominates
from gan_lab.report.runs import STATUSES, Run
from gan_lab.report.settings import label, shown
from gan_lab.report.study import Parameter, Study, has_values, is_wide

COLOURS = (
    *("#3d85c6", "#e07b39", "#3f9e5a", "#c9504f", "#8e6bbf", "#9c755f"),
    *("#d070ae", "#a3a13a", "#2fa7b5", "#7c8894"),
)
DASHES = ("solid", "dash", "dot")
OTHERS = "#9aa3ad"
NUM_STYLES = len(COLOURS) * len(DASHES)

MARGIN = {"l": 20, "r": 20, "t": 30, "b": 50}
LEGEND = {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0}

MOST_ROWS = 20
MOST_SLICES = 12
MOST_TICKS = 8
MANY_DECADES = 1e5
FAR = 4.0
"""A floor that is so many times better than all values would leave these no room."""
MOST_CURVES = 120
MOST_NUMBERS = 400_000
"""Values in all curves of the page together: about 3 MB of text."""

TRAINING_METRICS = (
    *("loss/discriminator", "loss/generator", "loss/penalty", "logits/real", "logits/fake"),
    *("discriminator/accuracy", "gradient_norm/discriminator", "gradient_norm/generator", "images_per_second"),
)
"""In this order; what else a run logs comes after them."""

UNITS = {
    "images_per_second": "images/s",
    "loss/discriminator": "discriminator's loss",
    "loss/generator": "generator's loss",
    "discriminator/accuracy": "discriminator's accuracy (share)",
    "mode_kl": "mode_kl (nats)",
    "mixture_kl": "mixture_kl (nats)",
}
NOT_DRAWN = ("wall_seconds", "steps/generator", "steps/discriminator")


@dataclass(frozen=True)
class Figure:
    """A figure with what is to be read off it. about: what is shown, for readers who do not see it."""

    name: str
    title: str
    caption: str
    about: str
    height: int
    data: list[dict[str, Any]]
    layout: dict[str, Any]


@dataclass(frozen=True)
class Style:
    """How a configuration is drawn everywhere. is_own: whether no other one looks the same."""

    label: str
    colour: str
    dash: str
    is_own: bool


def styles(labels: Sequence[str]) -> list[Style]:
    """The best ones have a colour of their own; from the 31st on all are gray."""
    return [
        Style(text, COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS)], True)
        if index < NUM_STYLES
        else Style(text, OTHERS, "solid", False)
        for index, text in enumerate(labels)
    ]


def escaped(text: Any) -> str:
    """Text for plotly, which reads some tags of HTML."""
    return html.escape(str(text), quote=False)


def axis_title(metric: str, way: Direction | None = None) -> str:
    better = {None: "", "maximize": ", more is better", "minimize": ", less is better"}[way]
    return escaped(UNITS.get(metric, metric)) + better


def _axis(title: str, **options: Any) -> dict[str, Any]:
    return {"title": {"text": title}, "automargin": True, **options}


def _names_axis() -> dict[str, Any]:
    """Names below one another, the first on top."""
    return _axis("", autorange="reversed", type="category")


def _dots(x: Sequence[Any], y: Sequence[Any], hover: str, **options: Any) -> dict[str, Any]:
    """A point for each x and y; hover: what is said of the one under the mouse, with %{x}, %{y} and %{text}."""
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "hovertemplate": hover, **options}


def _scale(values: Sequence[float], is_log: bool) -> dict[str, Any]:
    """The scale of an axis with these values: 1, 2, 5, 10 where a logarithm spans few decades, else the decades."""
    if not is_log:
        return {}
    few = max(values) < MANY_DECADES * min(values)
    return {"type": "log", "dtick": "D2" if few else 1, "exponentformat": "none" if few else "power"}


def _wide(values: Sequence[float]) -> dict[str, Any]:
    """The scale that shows values best."""
    return _scale(values, is_wide(values))


# ---------------------------------------------------------------------- seeds


def seeds_figure(board: Board, number: int, style_of: dict[str, Style]) -> Figure | None:
    """Each run of the best configurations as a dot, and their means; None where no configuration has two runs."""
    metric = board.objective
    if metric is None or not any(len(row.counted) > 1 for row in board.rows):
        return None
    rows = [row for row in board.rows if metric in row.values][:MOST_ROWS]
    names = [_unique(board.row_label(row), index) for index, row in enumerate(rows)]
    data: list[dict[str, Any]] = []
    for row, name in zip(rows, names, strict=True):
        data.append(
            _dots(
                [run.value(metric) for run in row.counted],
                [name] * len(row.counted),
                "%{text}: %{x:.4g}<extra></extra>",
                text=[escaped(f"{run.name}, {run.seed_text}") for run in row.counted],
                marker={"color": style_of[row.best_run.name].colour, "size": 9, "opacity": 0.65},
                showlegend=False,
            )
        )
    means = [row.values[metric].mean for row in rows]
    mark = {"symbol": "line-ns-open", "size": 18, "line": {"width": 3}, "color": OTHERS}
    data.append(_dots(means, names, "mean %{x:.4g}<extra></extra>", name="mean", marker=mark, showlegend=False))
    every = [value for entry in data for value in entry["x"]]
    floor = board.floor.get(metric)
    is_near = floor is not None and min(every) <= FAR * floor and floor <= FAR * max(every)
    about_floor = "" if floor is None else f" Real data in the fakes' place score {floor:.4g} (the floor)"
    if floor is not None:
        about_floor += ", the dashed line." if is_near else ", which is too far off to be drawn."
    scale = _wide([*every, *([floor] if floor is not None and is_near else [])])
    more = len([row for row in board.rows if metric in row.values]) - len(rows)
    return Figure(
        f"seeds-{number}",
        "Spread over seeds",
        "A dot is a run, the bar the mean of its configuration."
        + about_floor
        + (f" The {len(rows)} best configurations; the table has {more} more." if more > 0 else ""),
        f"{metric} of each run, by configuration",
        90 + 34 * len(rows),
        data,
        {
            "xaxis": _axis(axis_title(metric, board.objectives[metric]), **scale),
            "yaxis": _names_axis(),
            "shapes": [_vertical(floor)] if floor is not None and is_near else [],
            "margin": MARGIN,
        },
    )


def _unique(text: str, index: int) -> str:
    """A category of its own, even where two labels were cut to the same."""
    short = text if len(text) <= 48 else text[:47] + "…"
    return escaped(short) + "\u200b" * index


def _vertical(x: float) -> dict[str, Any]:
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dash", "width": 1}}


# ---------------------------------------------------------------------- curves


def curves(runs: Sequence[Run], first: Sequence[str]) -> dict[str, Any]:
    """What the page draws curves from, for the best runs, in order: `series`, metric -> (index into `kimg`, values).

    first: the metrics to be offered first.
    """
    chosen = list(runs[:MOST_CURVES])
    floors = {name.removesuffix("/floor") for run in chosen for name in run.metrics.columns if name.endswith("/floor")}
    scores = [name for name in _columns(chosen) if name in floors]
    scores = list(dict.fromkeys([*[name for name in first if name in scores], *scores]))
    drawn = [name for name in _columns(chosen) if name not in floors and name not in NOT_DRAWN]
    training = [name for name in TRAINING_METRICS if name in drawn]
    training += [name for name in drawn if name not in training and not name.endswith("/floor")]
    most = max(25, min(250, MOST_NUMBERS // max(1, len(chosen) * len([*scores, *training]))))
    return {
        "scores": scores,
        "training": training,
        "titles": {name: UNITS.get(name, name) for name in [*scores, *training]},
        "runs": [_curves_of(run, scores, training, most) for run in chosen],
        "left_out": len(runs) - len(chosen),
    }


def _curves_of(run: Run, scores: Sequence[str], training: Sequence[str], most: int) -> dict[str, Any]:
    kimg: list[list[float]] = []
    series: dict[str, tuple[int, list[float]]] = {}
    for name in [*scores, *training]:
        card = run.card_id if name in scores and any(run.metrics.cards) else None
        images, values = run.metrics.points(name, card)
        if not images:
            continue
        step = math.ceil(len(images) / most)
        first = (len(images) - 1) % step  # so that the last one is among them
        x = [round(value / 1000, 3) for value in images[first::step]]
        if x not in kimg:
            kimg.append(x)
        series[name] = (kimg.index(x), [_short(value) for value in values[first::step]])
    floor = {name: _short(value) for name in scores if (value := run.floor(name)) is not None}
    return {"floor": floor, "kimg": kimg, "series": series}


def _columns(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.metrics.columns))


def _short(value: float) -> float:
    return float(f"{value:.5g}")


# ---------------------------------------------------------------------- studies


def study_figures(study: Study, number: int, keys: Sequence[str]) -> list[Figure]:
    """Importances, history, slices, and the Pareto front where there are two objectives."""
    found = []
    if study.importances:
        found.append(_importances(study, number))
    for objective in study.objectives:
        found.append(_history(study, number, objective, keys))
    for objective in study.objectives:
        found.append(_slices(study, number, objective, keys))
    if len(study.objectives) == 2:
        found.insert(0, _pareto(study, number, keys))
    return found


def _importances(study: Study, number: int) -> Figure:
    order = list(next(iter(study.importances.values())))
    data = []
    for index, (objective, shares) in enumerate(study.importances.items()):
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": escaped(objective),
                "x": [shares.get(key, 0.0) for key in order],
                "y": [escaped(key) for key in order],
                "text": [f"{shares.get(key, 0.0):.0%}" for key in order],
                "textposition": "outside",
                "cliponaxis": False,
                "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
                "marker": {"color": COLOURS[index]},
            }
        )
    left = [parameter.key for parameter in study.parameters if not parameter.always]
    by_log = ", ".join(f"log {name}" for name in study.by_log)
    return Figure(
        f"importances-{number}",
        "What mattered",
        f"The share of the variance of {by_log or ' and '.join(study.importances)} among the {len(study.finished)} "
        "finished trials that a parameter explains alone or with others (fANOVA). It holds for the ranges that were "
        "searched."
        + (f" Left out, as not every trial has it: {', '.join(left)}." if left else "")
        + (" What seed explains is chance." if "seed" in order else ""),
        "importance of each parameter",
        110 + 30 * len(order) * len(data),
        data,
        {
            "barmode": "group",
            "xaxis": _axis("share of variance explained", tickformat=".0%", rangemode="tozero"),
            "yaxis": _names_axis(),
            "showlegend": len(data) > 1,
            "legend": LEGEND,
            "margin": {**MARGIN, "r": 50},
        },
    )


MARKS = {
    "finished": ("circle", COLOURS[0]),
    "pruned": ("x-thin-open", "#c98a1b"),
    "running": ("circle-open", COLOURS[2]),
}


def _mark(status: str) -> dict[str, Any]:
    symbol, colour = MARKS.get(status, ("diamond-open", OTHERS))
    return {"symbol": symbol, "color": colour, "size": 8, "line": {"width": 2 if "open" in symbol else 0}}


def _scored(study: Study, objective: str) -> dict[str, list[Run]]:
    """status -> runs with a value."""
    found: dict[str, list[Run]] = {}
    for run in study.runs:
        if run.value(objective) is not None and run.status != "failed":
            found.setdefault(run.status, []).append(run)
    order = [*STATUSES, *found]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def _trial(run: Run, keys: Sequence[str]) -> str:
    return escaped(f"trial {run.number if run.number is not None else run.name}: {label(run, keys)}")


def _history(study: Study, number: int, objective: str, keys: Sequence[str]) -> Figure:
    way = study.objectives[objective]
    data: list[dict[str, Any]] = []
    scored = _scored(study, objective)
    for status, runs in scored.items():
        x, y = [_number(study, run) for run in runs], [run.value(objective) for run in runs]
        hover = "%{text}<br>" + escaped(objective) + " %{y:.4g}<extra>" + escaped(status) + "</extra>"
        texts = [_trial(run, keys) for run in runs]
        data.append(_dots(x, y, hover, text=texts, name=escaped(status), marker=_mark(status)))
    finished = sorted(scored.get("finished", []), key=lambda run: _number(study, run))
    best: list[float] = []
    for run in finished:
        reached = run.value(objective) or 0.0
        best.append(reached if not best else max(best[-1], reached) if way == "maximize" else min(best[-1], reached))
    data.append(
        _dots(
            [_number(study, run) for run in finished],
            best,
            "best so far %{y:.4g}<extra></extra>",
            mode="lines",
            name="best so far",
            line={"shape": "hv", "color": COLOURS[0], "width": 2},
        )
    )
    failed = [run for run in study.runs if run.status == "failed"]
    if failed:
        x, y = [_number(study, run) for run in failed], [0.02] * len(failed)
        texts = [f"{_trial(run, keys)}<br>{escaped(run.kind or 'failed')}" for run in failed]
        mark = {"symbol": "x", "color": "#c9504f", "size": 7}
        hover = "%{text}<extra>failed</extra>"
        data.append(_dots(x, y, hover, text=texts, name="failed", yaxis="y2", marker=mark))
    values = [value for runs in scored.values() for run in runs if (value := run.value(objective)) is not None]
    return Figure(
        f"history-{number}-{objective}",
        f"History of {objective}",
        "Each trial in the order of its start."
        + (" Pruned ones stand at their best value until then." if "pruned" in scored else "")
        + (" Failed ones are marked at the bottom." if failed else ""),
        f"{objective} of each trial, in order",
        340,
        data,
        {
            "xaxis": _axis("trial", rangemode="tozero"),
            "yaxis": _axis(axis_title(objective, way), **_wide(values)),
            "yaxis2": {"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
            "legend": LEGEND,
            "margin": MARGIN,
        },
    )


def _number(study: Study, run: Run) -> int:
    return run.number if run.number is not None else study.runs.index(run)


def _slices(study: Study, number: int, objective: str, keys: Sequence[str]) -> Figure:
    way = study.objectives[objective]
    important = study.importances.get(objective, {})
    ordered = sorted(study.parameters, key=lambda parameter: -important.get(parameter.key, -1.0))
    drawn = ordered[:MOST_SLICES]
    columns = min(3, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    scored = _scored(study, objective)
    values = [value for runs in scored.values() for run in runs if (value := run.value(objective)) is not None]
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {
        "grid": {"rows": rows, "columns": columns, "pattern": "independent", "xgap": 0.12, "ygap": 0.36 / rows + 0.12},
        "legend": LEGEND,
        "margin": MARGIN,
    }
    hover = "%{text}<br>" + escaped(objective) + " %{y:.4g}<extra></extra>"
    for index, parameter in enumerate(drawn):
        suffix = "" if index == 0 else str(index + 1)
        layout[f"xaxis{suffix}"] = _slice_axis(parameter, study.runs)
        layout[f"yaxis{suffix}"] = _axis(axis_title(objective, way) if index % columns == 0 else "", **_wide(values))
        if index > 0:
            layout[f"yaxis{suffix}"]["matches"] = "y"
        for status, runs in scored.items():
            having = [run for run in runs if parameter.key in run.params]
            data.append(
                _dots(
                    [_slice_value(parameter, run) for run in having],
                    [run.value(objective) for run in having],
                    hover,
                    text=[_trial(run, keys) for run in having],
                    name=escaped(status),
                    legendgroup=status,
                    showlegend=index == 0,
                    xaxis=f"x{suffix}",
                    yaxis=f"y{suffix}",
                    marker={**_mark(status), "opacity": 0.75},
                )
            )
    left = [parameter.key for parameter in ordered[MOST_SLICES:]]
    return Figure(
        f"slices-{number}-{objective}",
        f"{objective} against each parameter",
        "A dot is a trial; the others of its parameters differ as well."
        + (" The most important parameter comes first." if important else "")
        + (f" Not drawn: {', '.join(left)}." if left else ""),
        f"{objective} against each parameter",
        60 + 270 * rows,
        data,
        layout,
    )


def _slice_axis(parameter: Parameter, runs: Sequence[Run]) -> dict[str, Any]:
    title = escaped(parameter.key)
    if not parameter.is_numeric:
        return _axis(title, type="category", categoryorder="category ascending")
    values = sorted({run.params[parameter.key] for run in runs if parameter.key in run.params})
    if len(values) > MOST_TICKS:
        return _axis(title, **_scale(values, parameter.is_log))
    kind = {"type": "log"} if parameter.is_log else {}
    return _axis(title, **kind, tickvals=values, ticktext=[shown(parameter.key, value) for value in values])


def _slice_value(parameter: Parameter, run: Run) -> Any:
    value = run.params[parameter.key]
    return value if parameter.is_numeric else escaped(shown(parameter.key, value))


def _pareto(study: Study, number: int, keys: Sequence[str]) -> Figure:
    (one, way_one), (other, way_other) = study.objectives.items()
    data: list[dict[str, Any]] = []
    finished = study.finished

    def point(run: Run) -> tuple[float, float]:
        return run.value(one) or 0.0, run.value(other) or 0.0

    def signed(run: Run) -> tuple[float, ...]:
        ways = (way_one, way_other)
        return tuple(-v if way == "maximize" else v for v, way in zip(point(run), ways, strict=True))

    front = [run for run in finished if not any(dominates(signed(rival), signed(run)) for rival in finished)]
    front.sort(key=point)
    pruned = [run for run in study.runs if run.status == "pruned" and has_values(run, study.objectives)]
    groups = [
        ("pruned", pruned, _mark("pruned"), "markers"),
        ("finished", [run for run in finished if run not in front], {**_mark("finished"), "opacity": 0.6}, "markers"),
        ("Pareto front", front, {"symbol": "star", "size": 13, "color": COLOURS[1]}, "markers+lines"),
    ]
    for name, runs, mark, mode in groups:
        if runs:
            x, y = zip(*map(point, runs), strict=True)
            texts = [_trial(run, keys) for run in runs]
            hover = "%{text}<br>%{x:.4g}, %{y:.4g}<extra>" + name + "</extra>"
            line = {"dash": "dot", "width": 1, "color": COLOURS[1]}
            data.append(_dots(x, y, hover, text=texts, mode=mode, name=name, marker=mark, line=line))
    every = [point(run) for run in [*finished, *pruned]]
    return Figure(
        f"pareto-{number}",
        "Pareto front",
        f"No trial is better than a starred one in {one} without being worse in {other}.",
        f"{other} against {one}",
        420,
        data,
        {
            "xaxis": _axis(axis_title(one, way_one), **_wide([x for x, _ in every])),
            "yaxis": _axis(axis_title(other, way_other), **_wide([y for _, y in every])),
            "legend": LEGEND,
            "margin": MARGIN,
        },
    )
