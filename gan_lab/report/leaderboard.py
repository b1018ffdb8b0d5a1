"""Configurations in order: one leaderboard for each metric card, seeds of a configuration taken together."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any, NamedTuple

from gan_lab.objectives import USUAL_OBJECTIVES, Direction, direction_of
from gan_lab.report.runs import Run
from gan_lab.report.settings import differing, identity, setting, shown
from gan_lab.tolerant import finite, mapping

CLEAR = 3.0
"""A difference of two means is called clear from so many standard errors on."""


class Spread(NamedTuple):
    """Mean and sample standard deviation (None of a single value) over the runs of a configuration."""

    mean: float
    std: float | None
    num: int


def spread(values: Sequence[float]) -> Spread | None:
    if not values:
        return None
    return Spread(mean(values), stdev(values) if len(values) > 1 else None, len(values))


@dataclass
class Configuration:
    """Runs that differ in nothing but their seed, the best one that is counted first. counted: those that means are
    taken over, one of each seed, which are finished ones where there are any. repetitions: those that would be counted
    but for another one of the same seed. rank, from 1: None where none has finished. front: with several objectives, 1
    for the Pareto front, 2 for the front without those, ..."""

    runs: list[Run]
    counted: list[Run]
    repetitions: list[Run] = field(default_factory=list)
    values: dict[str, Spread] = field(default_factory=dict)
    rank: int | None = None
    front: int | None = None

    @property
    def best_run(self) -> Run:
        return self.runs[0]

    @property
    def statuses(self) -> dict[str, int]:
        return dict(Counter(run.status for run in self.runs))


@dataclass
class Board:
    """Configurations measured by one card (None: by none), in order. objectives: metric -> direction; metrics: what
    else was measured; settings: the keys that differ; floor: metric -> the score of real data."""

    card_id: str | None
    card: dict[str, Any]
    objectives: dict[str, Direction]
    is_chosen: bool
    metrics: list[str]
    settings: list[str]
    floor: dict[str, float]
    rows: list[Configuration]

    @property
    def runs(self) -> list[Run]:
        return [run for row in self.rows for run in row.runs]

    @property
    def ranked(self) -> list[Configuration]:
        return [row for row in self.rows if row.rank is not None]

    @property
    def objective(self) -> str | None:
        return next(iter(self.objectives), None)

    def ratio(self, value: float, metric: str) -> float | None:
        """A value in multiples of the floor; None where that means nothing."""
        from gan_lab.evaluation import ratio_to_floor

        return ratio_to_floor(value, self.floor.get(metric))

    def row_label(self, row: Configuration) -> str:
        """By what differs on this board alone."""
        parts = [
            f"{key.removesuffix('._target_')}={value}"
            for key in self.settings
            if (value := shown(key, setting(row.best_run, key)))
        ]
        return ", ".join(parts) or str(row.best_run.record.get("name") or row.best_run.name)


def value_of(run: Run, metric: str, objectives: Mapping[str, Direction]) -> float | None:
    """What a run is listed with: an objective's value, or any other metric of the same generator."""
    if metric in objectives:
        return run.value(metric)
    of_best = finite(mapping(run.best.get("scores")).get(metric))
    return run.final(metric) if of_best is None else of_best


def boards(runs: Sequence[Run]) -> list[Board]:
    """One leaderboard for each card, the one with the most runs first. Runs without a score join the board of their
    configuration, or the only one; else they have a list of their own, the last one."""
    by_card: dict[str | None, list[Run]] = defaultdict(list)
    for run in runs:
        by_card[run.card_id].append(run)
    without = by_card.pop(None, [])
    homes: dict[Any, set[str | None]] = defaultdict(set)
    for card, members in by_card.items():
        for run in members:
            homes[identity(run)].add(card)
    left: list[Run] = []
    for run in without:
        places = homes.get(identity(run), set())
        home = next(iter(places)) if len(places) == 1 else next(iter(by_card)) if len(by_card) == 1 else None
        (left if home is None else by_card[home]).append(run)
    found = [_board(card, members) for card, members in sorted(by_card.items(), key=lambda item: -len(item[1]))]
    return [*found, *([_board(None, left)] if left else [])]


def _board(card_id: str | None, runs: list[Run]) -> Board:
    carded = next((run for run in runs if run.card_id == card_id and run.card), runs[0])
    measured = _measured(runs)
    objectives, is_chosen = _objectives(runs, measured)
    floor = {}
    for metric in dict.fromkeys([*objectives, *measured]):
        found = next((value for run in runs if (value := run.floor(metric)) is not None), None)
        if found is not None:
            floor[metric] = found
    board = Board(
        card_id,
        carded.card if card_id is not None else {},
        objectives,
        is_chosen,
        [metric for metric in measured if metric not in objectives],
        differing(runs),
        floor,
        [],
    )
    groups: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        groups[identity(run)].append(run)
    board.rows = _ordered([_configuration(group, board) for group in groups.values()], board)
    return board


def _measured(runs: Sequence[Run]) -> list[str]:
    """Every metric of an evaluation, in the order in which they are written."""
    names: dict[str, None] = {}
    for run in runs:
        columns = [name for name in run.metrics.columns if f"{name}/floor" in run.metrics.columns]
        names |= dict.fromkeys([*columns, *mapping(run.best.get("scores"))])
    return [name for name in names if any(value_of(run, name, {}) is not None for run in runs)]


def _objectives(runs: Sequence[Run], measured: Sequence[str]) -> tuple[dict[str, Direction], bool]:
    """(metric -> direction, whether somebody chose them): what most of the runs were judged by."""
    told: Counter[tuple[tuple[str, Direction], ...]] = Counter()
    for run in runs:
        own = run.settings.get("objective")
        if run.sweep is not None and run.sweep.objectives:
            told[tuple(run.sweep.objectives.items())] += 1
        elif isinstance(run.best.get("metric"), str):
            told[(run.best["metric"], direction_of(run.best["metric"])),] += 1
        elif isinstance(own, str) and own != "auto" and run.value(own) is not None:
            told[(own, direction_of(own)),] += 1
    if told:
        return dict(told.most_common(1)[0][0]), True
    usual = next((name for name in USUAL_OBJECTIVES if name in measured), None)
    return ({} if usual is None else {usual: direction_of(usual)}), False


def _configuration(runs: list[Run], board: Board) -> Configuration:
    def place(run: Run) -> tuple[bool, bool, float]:
        value = None if board.objective is None else run.value(board.objective)
        sign = -1 if board.objective and board.objectives[board.objective] == "maximize" else 1
        return run.status != "finished", value is None, 0.0 if value is None else sign * value

    complete = [run for run in runs if all(run.value(metric) is not None for metric in board.objectives)]
    usable = [run for run in complete if run.status == "finished"] or complete
    counted = sorted(one_of_each_seed(usable), key=place)
    others = sorted((run for run in runs if run not in counted), key=place)
    row = Configuration([*counted, *others], counted, [run for run in others if run in usable])
    for metric in [*board.objectives, *board.metrics]:
        values = [value for run in row.counted if (value := value_of(run, metric, board.objectives)) is not None]
        found = spread(values)
        if found is not None:
            row.values[metric] = found
    return row


def one_of_each_seed(runs: Sequence[Run]) -> list[Run]:
    """Of runs that differ in their seed alone, the first of each seed that finished: the same numbers twice say nothing
    about the spread over seeds. What `gan-lab reproduce` has made stands back for any other."""

    def place(run: Run) -> tuple[bool, bool, str]:
        ended = run.record.get("ended")
        return "repeats" in run.record, ended is None, str(ended)

    chosen: dict[str, Run] = {}
    for run in sorted(runs, key=place):
        chosen.setdefault(repr(run.seed), run)
    return list(chosen.values())


def _ordered(rows: list[Configuration], board: Board) -> list[Configuration]:
    """Ranked ones first, then those whose runs did not end, then those without a value."""

    def place(row: Configuration) -> tuple[int, float]:
        found = row.values.get(board.objective or "")
        sign = -1 if board.objective and board.objectives[board.objective] == "maximize" else 1
        return row.front or 0, math.inf if found is None else sign * found.mean

    ended = [row for row in rows if board.objectives and row.counted and row.counted[0].status == "finished"]
    others = [row for row in rows if row not in ended]
    if len(board.objectives) > 1:
        for row, front in zip(ended, fronts(ended, board.objectives), strict=True):
            row.front = front
    ended.sort(key=place)
    for rank, row in enumerate(ended, start=1):
        row.rank = rank
    return [*ended, *sorted(others, key=place)]


def fronts(rows: Sequence[Configuration], objectives: Mapping[str, Direction]) -> list[int]:
    """Of each row the number of its front: 1 for those that no other row beats, 2 for those only they beat, ..."""
    points = [_signed(row, objectives) for row in rows]
    found = [0] * len(rows)
    left, front = set(range(len(rows))), 1
    while left:
        best = {one for one in left if not any(dominates(points[other], points[one]) for other in left)}
        for one in best:
            found[one] = front
        left -= best
        front += 1
    return found


def _signed(row: Configuration, objectives: Mapping[str, Direction]) -> tuple[float, ...]:
    return tuple((-1 if way == "maximize" else 1) * row.values[name].mean for name, way in objectives.items())


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether a point, smaller is better, is nowhere worse than another and somewhere better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


def standard_errors(one: Spread, other: Spread) -> float | None:
    """The difference of two means in its standard errors (Welch); None where a spread is not known."""
    if one.std is None or other.std is None:
        return None
    error = math.sqrt(one.std**2 / one.num + other.std**2 / other.num)
    difference = abs(one.mean - other.mean)
    return difference / error if error > 0 else (math.inf if difference > 0 else 0.0)


def unlike(cards: Sequence[tuple[str | None, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What the cards differ in: fact -> card id -> value. What was scored is no part of how it was measured."""
    from gan_lab.evaluation import WHAT_WAS_SCORED

    known = [(name, card) for name, card in cards if name is not None]
    facts = dict.fromkeys(fact for _, card in known for fact in card if fact not in WHAT_WAS_SCORED)
    return {
        fact: {name: card.get(fact) for name, card in known}
        for fact in facts
        if len({repr(card.get(fact)) for _, card in known}) > 1
    }
