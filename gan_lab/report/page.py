"""The report as one HTML page that needs nothing else: pictures, data, styles and plotly.js are in it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gan_lab import __version__
from gan_lab.report import figures
from gan_lab.report.figures import Figure, Style
from gan_lab.report.leaderboard import Board
from gan_lab.report.listing import listing
from gan_lab.report.pictures import Picture, in_order, pictures
from gan_lab.report.runs import Run
from gan_lab.report.settings import identity, label, repeat_command, shown
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
    verdict,
    versions,
)

ALL_VERSIONS = 100


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
                "columns": columns,
                "rows": rows,
                "has_extra": any(column.extra for column in columns),
                "has_children": any(row.children for row in rows),
                "seeds": next((made for other, made in drawn if other is board), None),
            }
            for board, (columns, rows) in zip(summary.boards, map(listing, summary.boards), strict=True)
        ],
        index=index,
        style_of=style_of,
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
