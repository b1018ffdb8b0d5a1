"""The report as one HTML page that needs nothing else: pictures, data, styles and plotly.js are in it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gan_lab import __version__
from gan_lab.objectives import Direction, direction_of
from gan_lab.report import figures
from gan_lab.report.figures import Figure, Style, arrow
from gan_lab.report.leaderboard import Board, Configuration, Spread, spread, value_of
from gan_lab.report.pictures import Picture, in_order, pictures
from gan_lab.report.runs import Run
from gan_lab.report.settings import identity, label, repeat_command, setting, shown
from gan_lab.report.summary import (
    Summary,
    apart,
    best_commands,
    card_facts,
    card_name,
    count,
    duration,
    facts,
    figure,
    machine_of,
    mattered,
    moment,
    status_counts,
    times,
    verdict,
    versions,
    with_spread,
)

SHOWN_FIRST = ("fid", "fd", "kid", "kd", "precision", "recall", "coverage", "sliced_wasserstein", "modes_covered")
NUM_SHOWN = 4
"""So many metrics beside the objectives are shown at once, the others on demand."""

ALL_VERSIONS = 100


@dataclass(frozen=True)
class Column:
    """Of a table that sorts. way: how the better values are told, if there are any; extra: shown on demand."""

    title: str
    way: Direction | None = None
    extra: bool = False
    floor: str = ""
    is_number: bool = True
    hint: str = ""


@dataclass(frozen=True)
class Cell:
    """sort: the number that the cell is sorted by, None for none; text sorts by itself where is_number is false."""

    text: str
    sort: float | None = None


@dataclass(frozen=True)
class Row:
    """runs: their indices on the page; children: the runs of a configuration of several."""

    runs: list[int]
    cells: list[Cell]
    statuses: dict[str, int]
    style: Style | None = None
    children: list["Row"] = field(default_factory=list)


def render(summary: Summary, plotly_js: str) -> str:
    """The page's text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    ordered = in_order(summary.boards)
    index = {run.name: number for number, run in enumerate(ordered)}
    names: dict[Any, str] = {}
    for run in ordered:  # the best one first: it has the first colour
        names.setdefault(identity(run), label(run, summary.keys))
    styles = dict(zip(names, figures.styles(list(names.values())), strict=True))
    style_of = {run.name: styles[identity(run)] for run in ordered}
    position = {key: number for number, key in enumerate(names)}

    real, fakes, num_left_out = pictures(summary.boards)
    drawn: list[tuple[Board, Figure]] = []
    for number, board in enumerate(summary.boards):
        seeds = figures.seeds_figure(board, number, style_of)
        if seeds is not None:
            drawn.append((board, seeds))
    studies = [
        (study, figures.study_figures(study, number, summary.keys)) for number, study in enumerate(summary.studies)
    ]
    every = [*[made for _, made in drawn], *[made for _, several in studies for made in several]]
    first = [metric for board in summary.boards for metric in board.objectives]
    curves = figures.curves(ordered, first)
    for entry, run in zip(curves["runs"], ordered, strict=False):
        entry |= {"run": index[run.name], "configuration": position[identity(run)], "card": run.card_id}
    data = {
        "runs": [
            {
                "name": run.name,
                "status": run.status,
                "title": _with_seed(label(run, summary.keys), run),
                "text": " ".join(
                    [run.name, label(run, summary.keys), f"seed={run.seed}", run.status, run.kind or "", _search(run)]
                ).lower(),
            }
            for run in ordered
        ],
        "configurations": [
            {"label": style.label, "colour": style.colour, "dash": style.dash, "own": style.is_own}
            for style in styles.values()
        ],
        "curves": curves,
        "figures": {made.name: {"data": made.data, "layout": made.layout} for made in every},
    }
    folder = Path(__file__).parent
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string((folder / "page.html").read_text())
    return template.render(
        title=summary.title,
        facts=facts(summary),
        all_versions=versions(summary.runs, _packages(summary.runs)),
        commands=[str(sweep.content["command"]) for sweep in summary.found.whole if sweep.content.get("command")],
        apart=apart(summary),
        verdicts=[(board, verdict(board)) for board in summary.boards],
        mattered=[text for study in summary.studies if (text := mattered(study))],
        best=_best(summary),
        statuses=status_counts(summary.runs),
        num_runs=len(summary.runs),
        tables=[
            {
                "board": board,
                "name": card_name(board),
                "card": card_facts(board.card),
                "columns": _columns(board),
                "rows": [_row(board, row, index, style_of) for row in board.rows],
                "has_extra": any(column.extra for column in _columns(board)),
                "has_children": any(len(row.runs) > 1 for row in board.rows),
                "seeds": next((made for other, made in drawn if other is board), None),
            }
            for board in summary.boards
        ],
        real=real,
        fakes=[_captioned(picture, summary.boards, index, style_of) for picture in fakes],
        num_left_out=num_left_out,
        has_curves=any(entry["series"] for entry in curves["runs"]),
        curves=curves,
        studies=[
            (str(study.sweep.content.get("name") or study.sweep.path), study, several) for study, several in studies
        ],
        failed=[_detail(run, summary, index) for run in summary.failed],
        findings=[
            {
                "index": index[run.name],
                "run": run,
                "label": _with_seed(label(run, summary.keys), run),
                "problem": finding.get("problem", ""),
                "images_seen": finding.get("images_seen", ""),
                "message": finding.get("message", ""),
            }
            for run in summary.with_findings
            for finding in run.health
        ],
        runs=[_detail(run, summary, index) for run in summary.runs],
        several_cards=len({run.card_id for run in summary.runs} - {None}) > 1,
        made=f"{summary.made:%Y-%m-%d %H:%M} UTC",
        version=__version__,
        count=count,
        css=Markup((folder / "page.css").read_text()),
        js=Markup((folder / "page.js").read_text()),
        plotly_js=Markup(plotly_js),
        data=Markup(_for_script(data)),
    )


def _for_script(data: Any) -> str:
    """JSON that cannot end the script element that holds it."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _with_seed(text: str, run: Run) -> str:
    return ", ".join(part for part in (text, run.seed_text) if part)


def _search(run: Run) -> str:
    return " ".join([*run.overrides, *(f"{key}={shown(key, value)}" for key, value in run.params.items())])


def _packages(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(name for run in runs for name in run.versions))[:ALL_VERSIONS]


# ---------------------------------------------------------------------- leaderboards


def _shown_metrics(board: Board) -> list[tuple[str, bool]]:
    """(metric, whether it is shown on demand only), the usual ones first."""
    usual = [metric for metric in SHOWN_FIRST if metric in board.metrics]
    order = [*usual, *[metric for metric in board.metrics if metric not in usual]]
    return [(metric, place >= NUM_SHOWN) for place, metric in enumerate(order)]


def _columns(board: Board) -> list[Column]:
    columns = [Column("#", hint="place among the configurations whose runs came to their end")]
    columns += [Column(key.removesuffix("._target_"), is_number=_are_numbers(board, key)) for key in board.settings]
    if not board.settings:
        columns.append(Column("name", is_number=False))
    for metric, way in board.objectives.items():
        better = "more is better" if way == "maximize" else "less is better"
        floor = figure(board.floor.get(metric))
        columns.append(Column(f"{metric} {arrow(way)}", way, floor=floor, hint=f"mean ± standard deviation; {better}"))
        if metric in board.floor:
            columns.append(Column("x floor", way, floor="1.00x", hint="in multiples of what real data score"))
    if len(board.objectives) > 1:
        columns.append(Column("front", hint="1 is the Pareto front, 2 the front without those, ..."))
    columns.append(Column("runs", hint="runs that differ in their seed alone"))
    columns.append(Column("status", is_number=False))
    for metric in board.objectives:
        hint = "at the end of training, not of the best generator"
        columns.append(Column(f"last {metric}", board.objectives[metric], hint=hint))
    for metric, extra in _shown_metrics(board):
        way = direction_of(metric)
        floor = figure(board.floor.get(metric))
        columns.append(Column(f"{metric} {arrow(way)}", way, extra, floor, hint="of the best generator"))
    columns += [
        Column("best at kimg", hint="thousands of real images that the best generator had been trained on"),
        Column("kimg", hint="thousands of real images trained on"),
        Column("time", hint="of training, mean over the runs"),
        Column("images/s"),
    ]
    return columns


def _are_numbers(board: Board, key: str) -> bool:
    values = [setting(run, key) for run in board.runs]
    return all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values)


def _row(board: Board, row: Configuration, index: dict[str, int], style_of: dict[str, Style]) -> Row:
    one_run = len(row.runs) == 1
    runs = row.counted or row.runs
    num = row.best_run.seed_text if one_run else str(len(row.runs))
    cells = [
        Cell("" if row.rank is None else str(row.rank), row.rank),
        *(_setting_cells(board, row.best_run) or [Cell(board.row_label(row))]),
        *_objective_cells(board, row.values, row.front),
        Cell(num, len(row.runs)),
        Cell(", ".join(row.statuses)),
        *_metric_cells(board, runs, row.values),
        *_effort_cells(runs),
    ]
    children = [] if one_run else [_child(board, run, index, style_of) for run in row.runs]
    return Row([index[run.name] for run in row.runs], cells, row.statuses, style_of[row.best_run.name], children)


def _child(board: Board, run: Run, index: dict[str, int], style_of: dict[str, Style]) -> Row:
    """One run of a configuration of several."""
    metrics = [*board.objectives, *board.metrics]
    values = {
        name: Spread(value, None, 1) for name in metrics if (value := value_of(run, name, board.objectives)) is not None
    }
    cells = [
        *[Cell("") for _ in range(1 + max(1, len(board.settings)))],
        *_objective_cells(board, values, None),
        Cell(run.seed_text),
        Cell(run.status),
        *_metric_cells(board, [run], values),
        *_effort_cells([run]),
    ]
    return Row([index[run.name]], cells, {run.status: 1}, style_of[run.name])


def _objective_cells(board: Board, values: dict[str, Spread], front: int | None) -> list[Cell]:
    cells = []
    for metric in board.objectives:
        value = values.get(metric)
        cells.append(_spread_cell(value))
        if metric in board.floor:
            ratio = None if value is None else board.ratio(value.mean, metric)
            cells.append(Cell(times(ratio), ratio))
    if len(board.objectives) > 1:
        cells.append(Cell("" if front is None else f"{front}{' ★' if front == 1 else ''}", front))
    return cells


def _metric_cells(board: Board, runs: Sequence[Run], values: dict[str, Spread]) -> list[Cell]:
    cells = []
    for metric in board.objectives:
        cells.append(_spread_cell(spread([value for run in runs if (value := run.final(metric)) is not None])))
    return [*cells, *[_spread_cell(values.get(metric)) for metric, _ in _shown_metrics(board)]]


def _spread_cell(value: Spread | None) -> Cell:
    return Cell(with_spread(value), None if value is None else value.mean)


def _setting_cells(board: Board, run: Run) -> list[Cell]:
    cells = []
    for key in board.settings:
        value = setting(run, key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        cells.append(Cell(shown(key, value), value if is_number else None))
    return cells


def _effort_cells(runs: Sequence[Run]) -> list[Cell]:
    """Images at the best score, images in all, time, images a second: means over the runs."""

    def mean(values: Sequence[Any]) -> float | None:
        known = [value for value in values if isinstance(value, int | float)]
        return sum(known) / len(known) if known else None

    best = mean([run.best.get("images_seen") for run in runs])
    images = mean([run.images_seen for run in runs])
    seconds = mean([run.seconds for run in runs])
    speed = mean([run.record.get("images_per_second") for run in runs])
    return [
        Cell("" if best is None else f"{best / 1000:,.1f}", best),
        Cell("" if images is None else f"{images / 1000:,.1f}", images),
        Cell(duration(seconds), seconds),
        Cell("" if speed is None else f"{speed:,.0f}", speed),
    ]


# ---------------------------------------------------------------------- the other sections


def _best(summary: Summary) -> list[dict[str, Any]]:
    """What repeats the best ones."""
    found: list[dict[str, Any]] = []
    for what, command, text in best_commands(summary):
        found.append({"what": what, "command": command, "file": text})
    return found


def _captioned(
    picture: Picture, boards: Sequence[Board], index: dict[str, int], style_of: dict[str, Style]
) -> dict[str, Any]:
    run = picture.run
    assert run is not None
    board = next(board for board in boards if run in board.runs)
    row = next(row for row in board.rows if run in row.runs)
    score = [f"{metric} {figure(value)}" for metric in board.objectives if (value := run.value(metric)) is not None]
    card = [f"card {run.card_id}"] if len(boards) > 1 and run.card_id is not None else []
    images = [] if picture.images is None else [f"{picture.images:,} images"]
    place = "" if row.rank is None else f"#{row.rank} "
    return {
        "picture": picture,
        "run": index[run.name],
        "style": style_of[run.name],
        "title": f"{place}{_with_seed(label(run, board.settings), run)}",
        "facts": ", ".join([*score, *card, *images, *([run.status] if run.status != "finished" else [])]),
    }


def _detail(run: Run, summary: Summary, index: dict[str, int]) -> dict[str, Any]:
    where = [machine_of(run)]
    if run.status in ("running", "killed") and run.last_sign is not None:
        where.append(f"last sign {run.last_sign:%Y-%m-%d %H:%M} UTC")
    attempts = run.trial.get("attempts")
    if isinstance(attempts, int) and attempts > 1:
        where.append(count(attempts, "attempt"))
    if run.changes:
        where.append(f"changed when it was resumed: {', '.join(run.changes)}")
    return {
        "run": run,
        "index": index[run.name],
        "label": label(run, summary.keys),
        "title": _with_seed(label(run, summary.keys), run),
        "seed": "" if run.seed is None else str(run.seed),
        "command": repeat_command(run) or "",
        "machine": "; ".join(text for text in where if text),
        "started": moment(run.record.get("started") or run.trial.get("started")),
        "time": duration(run.seconds),
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
    }
