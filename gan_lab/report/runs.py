"""Finds runs and sweeps and reads them in whatever state they were left: half-written, damaged, of other versions."""

import csv
import glob
import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from gan_lab.errors import ConfigError
from gan_lab.files import try_lock
from gan_lab.objectives import Direction
from gan_lab.tolerant import finite, mapping, read_mapping

STATUSES = ("finished", "running", "pruned", "interrupted", "killed", "failed")
"""In the order in which they are listed; a status of another version comes after them. killed: run.json says that the
run is going on, but no process holds its directory."""

LOCKS = (".lock", ".claim")
"""What holds a run's directory: the process that trains there, and the worker of a sweep that starts it."""

MOST_ROWS = 400
"""Rows of metrics.csv that are kept of each kind, evenly spaced: more cannot be seen in a plot."""

NUM_LOG_LINES = 12
MOST_LOG_BYTES = 16_384
MOST_LINE_CHARACTERS = 400

NOT_SEARCHED = {"checkpoints", "tensorboard", "samples", "evaluations", ".hydra", "cache", "workers"}


class Metrics(NamedTuple):
    """Columns of metrics.csv, nan where a cell is empty; `cards` names the card of an evaluation's row, else ""."""

    images: list[int]
    cards: list[str]
    columns: dict[str, list[float]]

    def points(self, name: str, card: str | None = None) -> tuple[list[int], list[float]]:
        """(images seen, values) where a metric was measured; with `card`, only by that one."""
        found = [
            (images, value)
            for images, value, own in zip(self.images, self.columns.get(name, ()), self.cards, strict=False)
            if math.isfinite(value) and card in (None, own)
        ]
        return [images for images, _ in found], [value for _, value in found]


NO_METRICS = Metrics([], [], {})


@dataclass
class Sweep:
    """A sweep's directory. content: sweep.json."""

    path: Path
    content: dict[str, Any]

    @property
    def objectives(self) -> dict[str, Direction]:
        return mapping(self.content.get("objectives"))

    @property
    def space(self) -> list[dict[str, Any]]:
        """The parameters that were searched."""
        entries = self.content.get("space")
        known = entries if isinstance(entries, list) else []
        return [entry for entry in known if isinstance(entry, dict) and isinstance(entry.get("key"), str)]


@dataclass
class Run:
    """A run's directory. record: run.json; trial: trial.json, where it is a trial of `sweep`; settings: every leaf of
    its configuration by dotted key; choices: group -> option, as far as they are known; overrides: as typed; is_held:
    whether a process is at work there."""

    path: Path
    name: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    trial: dict[str, Any] = field(default_factory=dict)
    sweep: Sweep | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    metrics: Metrics = NO_METRICS
    problems: list[str] = field(default_factory=list)
    is_held: bool | None = None

    @property
    def number(self) -> int | None:
        """Of a trial."""
        told = self.trial.get("number")
        return told if isinstance(told, int) else None

    @property
    def params(self) -> dict[str, Any]:
        """What the sweep chose for it."""
        return mapping(self.trial.get("params"))

    @property
    def status(self) -> str:
        told = self.trial.get("status")
        status = self.record.get("status", told) if told in (None, "running") else told
        if status == "running" and self.is_held is False:
            return "killed"
        return str(status or ("failed" if self.problems else "unknown"))

    @property
    def kind(self) -> str | None:
        """Of a failure: diverged, out_of_memory, ..."""
        if self.status != "failed":
            return None
        told = self.trial.get("kind") or self.record.get("kind")
        if told is not None:
            return str(told)
        found = [finding.get("problem") for finding in self.health]
        return "diverged" if "non_finite" in found else None

    @property
    def reason(self) -> str | None:
        """Why it failed, or cannot be read."""
        told = self.trial.get("reason") or self.record.get("error")
        return "; ".join([*([str(told)] if told else []), *self.problems]) or None

    @property
    def seed(self) -> Any:
        return self.params.get("seed", self.record.get("seed", self.settings.get("seed")))

    @property
    def seed_text(self) -> str:
        return "" if self.seed is None else f"seed {self.seed}"

    @property
    def best(self) -> dict[str, Any]:
        """The best generator's score: metric, value, images_seen, card_id, scores."""
        return mapping(self.record.get("best"))

    @property
    def last(self) -> dict[str, Any]:
        """The last value of each metric, floors included."""
        return mapping(self.record.get("metrics"))

    @property
    def health(self) -> list[dict[str, Any]]:
        found = self.record.get("health")
        return [finding for finding in found if isinstance(finding, dict)] if isinstance(found, list) else []

    @property
    def changes(self) -> list[str]:
        """The keys that were changed when the run was resumed."""
        resumed = self.record.get("resumed")
        sittings = resumed if isinstance(resumed, list) else []
        return list(dict.fromkeys(key for sitting in sittings for key in mapping(mapping(sitting).get("changed"))))

    @property
    def machine(self) -> dict[str, Any]:
        return mapping(self.record.get("machine"))

    @property
    def versions(self) -> dict[str, Any]:
        return mapping(self.record.get("versions"))

    @property
    def images_seen(self) -> int:
        """Real images trained on; of a run without a checkpoint, by its last row."""
        told = finite(self.record.get("images_seen")) or 0
        return max(round(told), *self.metrics.images[-1:], 0)

    @property
    def seconds(self) -> float | None:
        """Of training; of a run without a checkpoint, as far as it is known."""
        _, walls = self.metrics.points("wall_seconds")
        told = [finite(self.record.get("wall_seconds")) or 0.0, *walls[-1:]]
        return max(told) or finite(self.trial.get("seconds"))

    @cached_property
    def card_id(self) -> str | None:
        """The card of its scores: the best one's, else that of the last evaluation."""
        used = [self.best.get("card_id"), *[card for card in reversed(self.metrics.cards) if card]]
        return next((str(card) for card in used if card), None)

    @property
    def card(self) -> dict[str, Any]:
        return mapping(mapping(self.record.get("cards")).get(str(self.card_id)))

    def floor(self, metric: str) -> float | None:
        """What real data score in the fakes' place."""
        _, values = self.metrics.points(f"{metric}/floor", self.card_id)
        return finite(*values[-1:], self.last.get(f"{metric}/floor"))

    def value(self, metric: str) -> float | None:
        """What counts of a metric: the trial's own value, else the best generator's, else the last."""
        if self.best.get("metric") == metric:
            of_best = self.best.get("value")
        else:
            of_best = mapping(self.best.get("scores")).get(metric)
        told = mapping(self.trial.get("values")).get(metric)
        return finite(told, of_best, self.final(metric))

    def final(self, metric: str) -> float | None:
        """The last value of a metric."""
        card = self.card_id if f"{metric}/floor" in self.metrics.columns else None
        _, values = self.metrics.points(metric, card)
        return finite(self.last.get(metric), *values[-1:])

    @cached_property
    def log_tail(self) -> list[str]:
        """The last lines of run.log."""
        try:
            with (self.path / "run.log").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_LOG_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return []
        clean = re.sub(r"\x1b\[[0-9;]*m", "", text)
        lines = [line.rstrip() for line in re.split(r"[\r\n]+", clean) if line.strip()]
        return [
            line if len(line) <= MOST_LINE_CHARACTERS else line[:MOST_LINE_CHARACTERS] + " ..."
            for line in lines[-NUM_LOG_LINES:]
        ]

    @cached_property
    def last_sign(self) -> datetime | None:
        """When it last wrote something."""
        times = []
        for name in ("run.json", "metrics.csv", "run.log", "trial.json"):
            try:
                times.append((self.path / name).stat().st_mtime)
            except OSError:
                continue
        return datetime.fromtimestamp(max(times), timezone.utc) if times else None


class Found(NamedTuple):
    """What the report is about. whole: the sweeps of which all trials are in `runs`."""

    runs: list[Run]
    whole: list[Sweep]


def find(paths: Sequence[Path]) -> Found:
    """Every run below the paths, each once, and the sweeps there; ConfigError with every path that leads to none."""
    problems: list[str] = []
    run_dirs: dict[Path, Path] = {}
    sweep_dirs: dict[Path, Path] = {}
    for path in paths:
        places = _places(path)
        if not places:
            problems.append(f"runs={path}: there is no such directory ({path.expanduser().absolute()})")
            continue
        below_runs: list[Path] = []
        below_sweeps: list[Path] = []
        for place in places:
            for folder, is_sweep in _walk(place):
                (below_sweeps if is_sweep else below_runs).append(folder)
        if not below_runs and below_sweeps:
            problems.append(f"runs={path}: no trial of this sweep has been started yet")
        elif not below_runs:
            problems.append(f"runs={path} holds no run: there is no run.json in it or below it")
        run_dirs |= {folder.resolve(): folder for folder in reversed(below_runs)}
        sweep_dirs |= {folder.resolve(): folder for folder in below_sweeps}
    if problems:
        raise ConfigError(problems)
    sweeps = {
        resolved: Sweep(folder, read_mapping(folder / "sweep.json")[0]) for resolved, folder in sweep_dirs.items()
    }
    names = _names(list(run_dirs))
    found = []
    for resolved, folder in run_dirs.items():
        parent = resolved.parent
        own = sweeps.get(parent)
        if own is None and (parent / "sweep.json").is_file():  # a trial given by itself
            own = Sweep(folder.parent, read_mapping(parent / "sweep.json")[0])
        found.append(read_run(folder, names[resolved], own))
    found.sort(key=lambda run: _natural(run.name))
    return Found(found, sorted(sweeps.values(), key=lambda sweep: _natural(str(sweep.path))))


def _places(path: Path) -> list[Path]:
    """The directories that a path, a pattern, or `latest` names."""
    if str(path) == "latest":
        from gan_lab.record import find_run

        return [find_run("latest", key="runs")]
    path = path.expanduser()
    if path.is_dir():
        return [path]
    if path.name in ("run.json", "sweep.json") and path.is_file():
        return [path.parent]
    if not glob.has_magic(str(path)):
        return []
    return sorted((Path(text) for text in glob.glob(str(path), recursive=True) if os.path.isdir(text)), key=_natural)


def _walk(place: Path) -> Iterator[tuple[Path, bool]]:
    """(directory, whether it is a sweep's) of all runs and sweeps at and below a place; runs hold no others."""
    names = {"run.json", "trial.json", "sweep.json"}
    for folder, folders, files in os.walk(place, followlinks=False):
        here = names & set(files)
        if "sweep.json" in here:
            yield Path(folder), True
        elif here:
            yield Path(folder), False
            folders.clear()
        folders[:] = sorted((name for name in folders if name not in NOT_SEARCHED), key=_natural)


def _natural(text: Any) -> list[tuple[int, Any]]:
    """A key that sorts 2 before 10."""
    parts = re.split(r"(\d+)", str(text))
    return [(1, int(part)) if part.isdecimal() else (0, part) for part in parts]


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """What tells each run from the others: its path below their common folder."""
    if len(folders) == 1:
        return {folders[0]: folders[0].name}
    common = os.path.commonpath([folder.parent for folder in folders])
    return {folder: os.path.relpath(folder, common) for folder in folders}


# ---------------------------------------------------------------------- one run


def read_run(path: Path, name: str, sweep: Sweep | None = None) -> Run:
    """The run in a directory; what cannot be read is in its `problems`."""
    run = Run(path, name, sweep=sweep, is_held=is_held(path))
    run.trial, problem = read_mapping(path / "trial.json")
    _note(run, problem)
    run.record, problem = read_mapping(path / "run.json")
    _note(run, problem)
    config, problem = _yaml(path / ".hydra" / "resolved.yaml")
    _note(run, problem)
    run.settings = dict(_leaves(mapping(config)))
    overrides, _ = _yaml(path / ".hydra" / "overrides.yaml")
    run.overrides = [str(text) for text in overrides] if isinstance(overrides, list) else []
    run.choices = _choices(run, mapping(config))
    try:
        run.metrics = read_metrics(path / "metrics.csv")
    except OSError as error:
        _note(run, f"metrics.csv cannot be read: {error.strerror}")
    return run


def is_held(path: Path) -> bool | None:
    """Whether a process holds one of the locks of a run's directory; None where there is none to tell by."""
    found: list[bool] = []
    for name in LOCKS:
        try:
            with (path / name).open() as file:
                found.append(not try_lock(file, shared=True))
        except OSError:  # no such lock, or a file system without locks
            continue
    return any(found) if found else None


def _note(run: Run, problem: str | None) -> None:
    if problem is not None:
        run.problems.append(problem)


def _yaml(path: Path) -> tuple[Any, str | None]:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is built
    try:
        return yaml.load(path.read_text(), loader), None
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, yaml.YAMLError):
        return None, f"{path.name} is damaged"


def _leaves(node: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _choices(run: Run, config: Mapping[str, Any]) -> dict[str, Any]:
    """Group -> option: as Hydra wrote it down, as typed, and as the sweep chose."""
    hydra, _ = _yaml(run.path / ".hydra" / "hydra.yaml")
    runtime = mapping(mapping(mapping(mapping(hydra).get("hydra"))).get("runtime"))
    found = {key: value for key, value in mapping(runtime.get("choices")).items() if not key.startswith("hydra/")}
    for text in run.overrides:
        key, equals, value = text.partition("=")
        key = key.lstrip("+")
        if equals and "." not in key and (key == "experiment" or isinstance(config.get(key), Mapping)):
            found[key] = value
    return found | {key: value for key, value in run.params.items() if isinstance(config.get(key), Mapping)}


def read_metrics(path: Path, most_rows: int = MOST_ROWS) -> Metrics:
    """metrics.csv: at most so many log points and so many evaluations, the last ones among them.

    A line that a killed run left half-written is passed over. NO_METRICS where there is no file.
    """
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return NO_METRICS
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
    rows = list(csv.reader(text.splitlines()))
    if not rows or rows[0][:1] != ["images_seen"]:
        return NO_METRICS
    header = rows[0]
    whole = [row for row in rows[1:] if len(row) == len(header) and row[0].isdecimal()]
    floors = [index for index, name in enumerate(header) if name.endswith("/floor")]
    scored = [any(row[index] for index in floors) for row in whole]
    evaluations = _spaced([row for row, is_scored in zip(whole, scored, strict=True) if is_scored], most_rows)
    others = _spaced([row for row, is_scored in zip(whole, scored, strict=True) if not is_scored], most_rows)
    kept = sorted([*evaluations, *others], key=lambda row: int(row[0]))
    card = header.index("card") if "card" in header else None
    columns = {
        name: [_float(row[index]) for row in kept]
        for index, name in enumerate(header)
        if index > 0 and index != card and name
    }
    cards = [row[card] if card is not None else "" for row in kept]
    return Metrics([int(row[0]) for row in kept], cards, columns)


def _spaced(rows: list[list[str]], most: int) -> list[list[str]]:
    """At most so many rows, evenly spaced, the last one among them."""
    step = math.ceil(len(rows) / most) if rows else 1
    return list(itertools.islice(reversed(rows), 0, None, step))[::-1]


def _float(text: str) -> float:
    try:
        return float(text) if text else math.nan
    except ValueError:
        return math.nan
