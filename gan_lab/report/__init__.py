"""`gan-lab report`: a page, a text and a table that say what won among runs, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Report:
    """The arguments of the verb. runs: directories of runs, of sweeps, or folders of them, or `latest` for the run that
    was started or resumed last; one may be given bare, and globs are allowed."""

    runs: list[str] | str
    out: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.runs, str):
            self.runs = [self.runs]


def report(runs: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Writes report.html, report.md and runs.csv about runs, and returns their paths, the page first.

    runs: run directories, sweep directories (all their trials), folders that are searched for both, `latest`; globs are
    allowed.
    out: the folder that is written to. None: the sweep's own directory where `runs` is one sweep, which also names the
    table trials.csv; else outputs/reports/<date>_<time>.
    ConfigError where a path is not there or holds no run, and where the page's packages are missing; in that case the
    text and the table have been written.
    """
    from gan_lab.report.write import write

    return write(runs, out)
