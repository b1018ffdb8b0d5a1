"""From paths to the report's files."""

import itertools
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from gan_lab.errors import ConfigError
from gan_lab.files import replacing
from gan_lab.report.runs import Found, find

REPORTS = Path("outputs/reports")


def write(paths: Sequence[Path], out: Path | None) -> list[Path]:
    """See `gan_lab.report.report`."""
    from gan_lab.report.summary import summarise
    from gan_lab.report.tables import as_csv, as_markdown

    if not paths:
        raise ConfigError("runs must be given: gan-lab report runs=DIR, or runs=[DIR,DIR]")
    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"out={out} is a file; give a directory")
    found = find(paths)
    folder = _folder(paths, found) if out is None else out
    summary = summarise(found)
    table = folder / ("trials.csv" if _is_one_sweep(found) else "runs.csv")
    text, page = folder / "report.md", folder / "report.html"
    _write(table, as_csv(summary))
    _write(text, as_markdown(summary))
    plotly_js = _plotly_js(f"{text} and {table} are written")

    from gan_lab.report.page import render

    _write(page, render(summary, plotly_js))
    return [page, text, table]


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode(errors="replace"))


def _is_one_sweep(found: Found) -> bool:
    """Whether the runs are the trials of one sweep and nothing else."""
    return len(found.whole) == 1 and all(
        run.sweep is not None and run.sweep.path.resolve() == found.whole[0].path.resolve() for run in found.runs
    )


def _folder(paths: Sequence[Path], found: Found) -> Path:
    """Where the report goes: into the sweep that it is about, else into a directory of its own."""
    if len(paths) == 1 and _is_one_sweep(found):
        return found.whole[0].path
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    for number in itertools.count(1):
        folder = REPORTS / (name if number == 1 else f"{name}-{number}")
        if not folder.exists():
            return folder
    raise AssertionError


def _plotly_js(done: str) -> str:
    """plotly.js as plotly ships it; ConfigError where a package for the page is missing."""
    try:
        import jinja2  # noqa: F401
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError as error:
        package = (error.name or "plotly").split(".")[0]
        raise ConfigError(f"the page needs the package {package}: pip install 'gan_lab[report]' ({done})") from error
    return get_plotlyjs()
