"""The report as a table for programs and as a text for terminals and GitHub."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from gan_lab.report.leaderboard import Board, Configuration, value_of
from gan_lab.report.listing import listing
from gan_lab.report.runs import Run
from gan_lab.report.settings import label, repeat_command, setting, shown
from gan_lab.report.summary import (
    Summary,
    apart,
    best_commands,
    card_facts,
    card_name,
    count,
    duration,
    facts,
    machine_of,
    mattered,
    moment,
    verdict,
)

MOST_LISTED = 50
"""Configurations of a leaderboard, and commands, in the text; the table has all."""


def as_csv(summary: Summary) -> str:
    """One row a run: what it is, how it ended, every setting that differs, every metric (of the best generator by the
    objective, floors with them, and the last ones as `final/...`), card, time, machine, command."""
    metrics = list(
        dict.fromkeys(name for board in summary.boards for name in [*board.objectives, *board.metrics] if name)
    )
    rows = []
    for board in summary.boards:
        for row in board.rows:
            rows += [_record(summary, board, row, run, metrics) for run in row.runs]
    place = {run.name: number for number, run in enumerate(summary.runs)}
    rows.sort(key=lambda record: place[record["run"]])
    columns = list(dict.fromkeys(name for record in rows for name in record))
    kept = [name for name in columns if any(record.get(name) not in (None, "") for record in rows) or name == "card"]
    text = io.StringIO()
    writer = csv.DictWriter(text, kept, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _record(summary: Summary, board: Board, row: Configuration, run: Run, metrics: Sequence[str]) -> dict[str, Any]:
    record: dict[str, Any] = {
        "run": run.name,
        "trial": run.number,
        "status": run.status,
        "kind": run.kind,
        "reason": run.reason,
        "rank": row.rank,
        "front": row.front,
        "card": run.card_id,
        "objective": " ".join(board.objectives),
        "seed": run.seed,
    }
    record |= {key.removesuffix("._target_"): shown(key, setting(run, key)) for key in summary.keys}
    for name in metrics:
        record[name] = value_of(run, name, board.objectives)
        record[f"{name}/floor"] = run.floor(name)
        record[f"final/{name}"] = run.final(name)
    objective = board.objective
    value = None if objective is None else record[objective]
    record["floor_ratio"] = None if value is None or objective is None else board.ratio(value, objective)
    return record | {
        "best_images_seen": run.best.get("images_seen"),
        "images_seen": run.images_seen,
        "wall_seconds": run.seconds,
        "images_per_second": run.record.get("images_per_second"),
        "attempts": run.trial.get("attempts"),
        "findings": " ".join(str(finding.get("problem")) for finding in run.health),
        "host": run.trial.get("host"),
        "device": run.trial.get("device") or run.machine.get("device"),
        "gpu": run.machine.get("gpu"),
        "threads": run.machine.get("threads"),
        "gan_lab": run.versions.get("gan_lab"),
        "torch": run.versions.get("torch"),
        "started": run.record.get("started"),
        "ended": run.record.get("ended"),
        "path": str(run.path),
        "command": repeat_command(run),
    }


# ---------------------------------------------------------------------- Markdown


def as_markdown(summary: Summary) -> str:
    lines = [f"# Report: {_plain(summary.title)}", ""]
    lines += [f"- {name}: {_plain(text)}" for name, text in facts(summary)]
    for sweep in summary.found.whole:
        if sweep.content.get("command"):
            lines += ["", *_code([str(sweep.content["command"])])]
    lines += ["", "## What won", ""]
    reason = apart(summary)
    if reason is not None:
        lines += [_plain(reason), ""]
    for board in summary.boards:
        start = f"card {board.card_id}: " if reason is not None and board.card_id is not None else ""
        lines += [f"- {_plain(start + ' '.join(verdict(board)))}"]
    for study in summary.studies:
        sentence = mattered(study)
        lines += [f"- {_plain(sentence)}"] if sentence else []
    for board in summary.boards:
        lines += ["", *_board(board)]
    lines += _best_commands(summary)
    lines += _studies(summary)
    lines += _failures(summary)
    lines += _findings(summary)
    lines += _commands(summary)
    lines += ["", f"Made by gan_lab on {summary.made:%Y-%m-%d %H:%M} UTC.", ""]
    return "\n".join(lines)


def _board(board: Board) -> list[str]:
    title = f"Leaderboard, card {board.card_id}" if board.card_id is not None else "Runs without a score"
    if board.card_id is None and board.ranked:
        title = "Leaderboard without a metric card"
    lines = [f"## {title}", ""]
    if board.card:
        lines += [_plain(card_name(board)) + ".", ""]
    columns, rows = listing(board)
    places = [place for place, column in enumerate(columns) if column.in_text]
    cells = [[row.cells[place].text for place in places] for row in rows[:MOST_LISTED]]
    if board.floor:
        cells.insert(0, ["real data" if place == 1 else columns[place].floor for place in places])
    lines += _table([columns[place].title for place in places], cells)
    left = len(rows) - MOST_LISTED
    if left > 0:
        lines += ["", f"{left} more are in the table beside this file."]
    if board.card:
        lines += ["", "; ".join(f"{_plain(fact)}: {_plain(value)}" for fact, value in card_facts(board.card))]
    return lines


def _best_commands(summary: Summary) -> list[str]:
    lines = [line for what, command, _ in best_commands(summary) for line in (f"# {what}", command)]
    return ["", "## The best one again", "", *_code(lines)] if lines else []


def _studies(summary: Summary) -> list[str]:
    lines: list[str] = []
    for study in summary.studies:
        if study.importances:
            keys = list(next(iter(study.importances.values())))
            rows = [[key, *[f"{shares.get(key, 0.0):.1%}" for shares in study.importances.values()]] for key in keys]
            lines += ["", "## Importances of parameters", "", *_table(["parameter", *study.importances], rows)]
        elif study.because:
            lines += ["", "## Importances of parameters", "", study.because]
        if study.note:
            lines += ["", study.note]
    return lines


def _failures(summary: Summary) -> list[str]:
    if not summary.failed:
        return []
    rows = [
        [run.name, label(run, summary.keys), run.kind or "", f"{run.images_seen:,}", run.reason or ""]
        for run in summary.failed
    ]
    return ["", "## Failures", "", *_table(["run", "configuration", "kind", "images seen", "reason"], rows)]


def _findings(summary: Summary) -> list[str]:
    if not summary.with_findings:
        return []
    lines = ["", "## Training health", ""]
    for run in summary.with_findings:
        for finding in run.health:
            where = f"{_plain(run.name)} ({_plain(label(run, summary.keys))})"
            lines.append(f"- {where}: {_plain(finding.get('problem'))}: {_plain(finding.get('message'))}")
    return lines


def _commands(summary: Summary) -> list[str]:
    rows = [
        [run.name, run.status, duration(run.seconds), machine_of(run), moment(run.record.get("started"))]
        for run in summary.runs[:MOST_LISTED]
    ]
    left = len(summary.runs) - MOST_LISTED
    more = ["", f"{count(left, 'more run')} in the table beside this file."] if left > 0 else []
    header = ["run", "status", "time", "machine", "started"]
    commands = [
        f"{command}  # {run.name}" for run in summary.runs[:MOST_LISTED] if (command := repeat_command(run)) is not None
    ]
    return ["", "## Runs", "", *_table(header, rows), *more, *(["", *_code(commands)] if commands else [])]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table whose columns are aligned in a terminal as well."""
    cells = [[_cell(text) for text in row] for row in [header, *rows]]
    widths = [max(3, *(len(row[index]) for row in cells)) for index in range(len(header))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _plain(value: Any) -> str:
    """Text that Markdown takes for nothing else."""
    text = " ".join(str(value).split())
    for character in "\\`*_<>[]":
        if character == "_":  # inside a word it marks nothing, and names are full of it
            continue
        text = text.replace(character, "\\" + character)
    return text


def _cell(value: Any) -> str:
    return _plain(value).replace("|", "\\|")


def _code(lines: Sequence[str]) -> list[str]:
    """A code block whose fence is longer than any in it."""
    flat = [" ".join(line.split("\n")) for line in lines]
    fence = "```"
    while any(fence in line for line in flat):
        fence += "`"
    return [f"{fence}bash", *flat, fence]
