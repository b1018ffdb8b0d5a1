"""A leaderboard as columns and rows of text, which the page and the text alike only lay out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gan_lab.objectives import Direction, direction_of
from gan_lab.report.leaderboard import Board, Configuration, Spread, spread, value_of
from gan_lab.report.runs import Run
from gan_lab.report.settings import setting, shown
from gan_lab.report.summary import duration, figure, times, with_spread
from gan_lab.tolerant import is_number

SHOWN_FIRST = ("fid", "fd", "kid", "kd", "precision", "recall", "coverage", "sliced_wasserstein", "modes_covered")
NUM_SHOWN = 4
"""So many metrics beside the objectives are shown at once, the others on demand."""


@dataclass(frozen=True)
class Column:
    """way: how the better values are told, if there are any; extra: shown on demand; in_text: whether the text, which
    has less room, shows it too; floor: what real data score."""

    title: str
    way: Direction | None = None
    extra: bool = False
    in_text: bool = True
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
    """children: the runs of a configuration of several."""

    runs: list[Run]
    cells: list[Cell]
    statuses: dict[str, int]
    children: list["Row"] = field(default_factory=list)


def arrow(way: Direction) -> str:
    return "↑" if way == "maximize" else "↓"


def listing(board: Board) -> tuple[list[Column], list[Row]]:
    """The columns, and a row for each configuration of a board, in order."""
    return _columns(board), [_row(board, row) for row in board.rows]


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
        hint = f"mean ± standard deviation; {better}"
        columns.append(Column(f"{metric} {arrow(way)}", way, floor=floor, hint=hint))
        if metric in board.floor:
            columns.append(Column("x floor", way, floor="1.00x", hint="in multiples of what real data score"))
    if len(board.objectives) > 1:
        columns.append(Column("front", hint="1 is the Pareto front, 2 the front without those, ..."))
    columns.append(Column("runs", hint="runs that differ in their seed alone"))
    columns.append(Column("status", is_number=False))
    for metric, way in board.objectives.items():
        hint = "at the end of training, not of the best generator"
        columns.append(Column(f"last {metric}", way, in_text=False, hint=hint))
    for metric, extra in _shown_metrics(board):
        way = direction_of(metric)
        floor = figure(board.floor.get(metric))
        title = f"{metric} {arrow(way)}"
        columns.append(Column(title, way, extra, in_text=not extra, floor=floor, hint="of the best generator"))
    best = "thousands of real images that the best generator had been trained on"
    return [
        *columns,
        Column("best at kimg", in_text=False, hint=best),
        Column("kimg", hint="thousands of real images trained on"),
        Column("time", hint="of training, mean over the runs"),
        Column("images/s", in_text=False),
    ]


def _are_numbers(board: Board, key: str) -> bool:
    values = [setting(run, key) for run in board.runs]
    return all(value is None or is_number(value) for value in values)


def _row(board: Board, row: Configuration) -> Row:
    one_run = len(row.runs) == 1
    runs = row.counted or row.runs
    statuses = [status if one_run else f"{num} {status}" for status, num in row.statuses.items()]
    cells = [
        Cell("" if row.rank is None else str(row.rank), row.rank),
        *(_setting_cells(board, row.best_run) or [Cell(board.row_label(row))]),
        *_objective_cells(board, row.values, row.front),
        Cell(row.best_run.seed_text if one_run else str(len(row.runs)), len(row.runs)),
        Cell(", ".join(statuses)),
        *_metric_cells(board, runs, row.values),
        *_effort_cells(runs),
    ]
    return Row(row.runs, cells, row.statuses, [] if one_run else [_child(board, run) for run in row.runs])


def _child(board: Board, run: Run) -> Row:
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
    return Row([run], cells, {run.status: 1})


def _setting_cells(board: Board, run: Run) -> list[Cell]:
    values = [(key, setting(run, key)) for key in board.settings]
    return [Cell(shown(key, value), value if is_number(value) else None) for key, value in values]


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
    last = [[value for run in runs if (value := run.final(metric)) is not None] for metric in board.objectives]
    found = [*map(spread, last), *[values.get(metric) for metric, _ in _shown_metrics(board)]]
    return [_spread_cell(value) for value in found]


def _spread_cell(value: Spread | None) -> Cell:
    return Cell(with_spread(value), None if value is None else value.mean)


def _effort_cells(runs: Sequence[Run]) -> list[Cell]:
    """Images at the best score, images in all, time, images a second: means over the runs."""

    def mean(values: Sequence[Any]) -> float | None:
        known = [value for value in values if is_number(value)]
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
