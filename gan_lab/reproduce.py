"""`gan-lab reproduce`: trains a run again from its frozen configuration and says whether the numbers are the same."""

from __future__ import annotations

import csv
import logging
import math
import os
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from gan_lab import config as configuration
from gan_lab.callbacks.base import Callback
from gan_lab.callbacks.checkpoint import last_checkpoint
from gan_lab.constraints import PositiveInt
from gan_lab.errors import ConfigError, RunError
from gan_lab.files import read_checkpoint, write_json
from gan_lab.loggers import WALL_TIME_COLUMNS
from gan_lab.logs import configure_logging
from gan_lab.record import RunRecord, find_run

if TYPE_CHECKING:
    from pytorch_lightning import Trainer

    from gan_lab.module import GAN

log = logging.getLogger(__name__)

PLACES = ("system", "device", "gpu", "cores", "threads")
"""What run.json's `machine` says that numbers may depend on."""


@dataclass
class Reproduction:
    """Which run to repeat. out: the new run's directory; null: outputs/<date>/<time>-<name>-again."""

    run: str
    out: str | None = None


class StopAt(Callback):
    """Ends the repetition of a run where the original ended before its budget was used up.

    out_of_time: the original's end was planned, by budget.minutes, so that it logged and evaluated there.
    """

    def __init__(self, *, images: PositiveInt, out_of_time: bool = False):
        self.images = images
        self.out_of_time = out_of_time

    def on_cycle_start(self, trainer: Trainer, gan: GAN) -> None:
        if self.out_of_time and gan.images_seen + gan.num_discriminator_steps * gan.batch_size >= self.images:
            gan.budget_seconds = 1e-9

    def on_cycle_end(self, trainer: Trainer, gan: GAN) -> None:
        if gan.images_seen >= self.images:
            trainer.should_stop = True


def reproduce(request: Reproduction) -> Path:
    """Repeats a run, prints how the numbers compare and returns the new run's directory; RunError if they differ."""
    result = repeat(request)
    print(in_words(result))
    if not result["same"]:
        raise RunError(
            f"{result['original']} and its repetition {result['run']} are not the same (all of it: reproduction.json)"
        )
    return Path(result["run"])


def repeat(request: Reproduction) -> dict[str, Any]:
    """Repeats a run in a new directory, as far as the original got, and compares the two.

    Returns what that directory's reproduction.json then holds; see `compare`, and `in_words`.
    """
    from gan_lab.run import train  # waits for Lightning

    original = find_run(request.run)
    record = RunRecord.load(original)
    writable = os.access(original, os.W_OK)
    with record.locked() if writable else nullcontext():  # else it would change while it is compared
        images, name = _images_to_repeat(record), str(record.content["name"])
        cfg = _frozen(original)
        notes = _obstacles(record.content) + _take_threads(cfg, record.content)
        configuration.check(cfg)
        again = _new_dir(request.out, name)
        configure_logging(again)
        log.info(f"repeats {original}, {images:,} images")
        failure = None
        try:
            train(_ending_at(cfg, record.content, images), again)
        except RunError as error:
            if str(error) != record.content.get("error"):
                failure = f"the repetition ended early: {error}"
        repeated = RunRecord.load(again)
        stopped = repeated.content["status"] == "finished" and record.content["status"] != "finished"
        repeated.update(repeats=str(original), **({"status": "interrupted"} if stopped else {}))
        configuration.save(cfg, name, again)  # to resume it is to go on
        result = compare(record, repeated, images, failure) | {"notes": notes}
    write_json(again / "reproduction.json", result)
    return result


# ---------------------------------------------------------------------- the repetition


def _images_to_repeat(record: RunRecord) -> int:
    """How far the original's last checkpoint is."""
    images = record.content["images_seen"]
    if not last_checkpoint(record.run_dir).is_file() or images == 0:
        error = record.content.get("error")
        raise RunError(
            f"{record.run_dir} has no checkpoint, so nothing to compare with"
            + (f" (it failed: {error})" if error else "")
        )
    return images


def _frozen(run_dir: Path) -> DictConfig:
    path = run_dir / ".hydra" / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"run={run_dir} is not the directory of a run: it has no {path.relative_to(run_dir)}")
    return cast("DictConfig", OmegaConf.load(path))


def _new_dir(out: str | None, name: str) -> Path:
    if out is not None:
        if Path(out, "run.json").exists():
            raise ConfigError(f"out={out} already holds a run; choose another directory")
        return Path(out)
    now = datetime.now()
    path = Path("outputs", f"{now:%Y-%m-%d}", f"{now:%H-%M-%S}-{name}-again")
    for number in count(2):
        try:
            path.mkdir(parents=True)
            break
        except FileExistsError:
            path = path.with_name(f"{now:%H-%M-%S}-{name}-again-{number}")
    return path


def _obstacles(record: dict[str, Any]) -> list[str]:
    """Why a run cannot be repeated exactly, whatever the machine."""
    notes = [
        f"the original was resumed at {sitting['from_images']:,} images with other settings "
        f"({', '.join(sitting['changed'])}); the repetition has the last ones from its start"
        for sitting in record.get("resumed", [])
        if sitting["changed"]
    ]
    if back := record.get("roll_backs"):
        notes.append(f"the original was rolled back {len(back)} time(s), to checkpoints that depend on the clock")
    return notes


def _take_threads(cfg: DictConfig, record: dict[str, Any]) -> list[str]:
    """Gives `cfg` the original's number of threads, which the order of sums depends on; says so where it cannot."""
    import joblib  # scikit-learn's

    threads = record.get("machine", {}).get("threads")
    if threads is None:
        return []
    if threads > joblib.cpu_count():
        return [f"the original had {threads} threads, and this process may use {joblib.cpu_count()} cores"]
    cfg.accelerator.num_threads = threads
    return []


def _ending_at(cfg: DictConfig, record: dict[str, Any], images: int) -> DictConfig:
    """The configuration with which a run ends after `images`, its schedules and intervals as they were."""
    if images >= round(cfg.budget.kimg * 1000):
        return cfg
    ending = cfg.copy()
    OmegaConf.set_struct(ending, False)
    ending.callbacks.reproduce = {
        "_target_": f"{__name__}.StopAt",
        "images": images,
        "out_of_time": record["status"] == "finished",
    }
    ending.budget.minutes = None
    return ending


# ---------------------------------------------------------------------- the comparison


def compare(original: RunRecord, again: RunRecord, images: int, failure: str | None = None) -> dict[str, Any]:
    """Whether two runs are the same up to `images`, and where not.

    same; num_rows and num_metrics (compared); first_difference, largest_final_difference: images_seen, metric, both
    values and their relative difference, or None; weights: of each network, whether they are equal; best: both best
    scores, or None; differs: what the runs' records say otherwise (versions, code, machine), as [original, again].
    """
    rows, columns = zip(*(_rows(record.run_dir, images) for record in (original, again)), strict=True)
    metrics = list(dict.fromkeys(columns[0] + columns[1]))
    first = _first_difference(rows[0], rows[1], metrics)
    weights = _equal_weights(original.run_dir, again.run_dir)
    best = [_best(record.content) for record in (original, again)]
    return {
        "same": first is None and best[0] == best[1] and failure is None and all(weights.values()),
        "original": str(original.run_dir),
        "run": str(again.run_dir),
        "images_seen": images,
        "failure": failure,
        "num_rows": len(rows[0]),
        "num_metrics": len([name for name in metrics if name != "card"]),
        "first_difference": first,
        "largest_final_difference": _largest_final_difference(rows[0], rows[1], metrics),
        "weights": weights,
        "best": None if best == [None, None] else best,
        "differs": _circumstances(original.content, again.content),
    }


Rows = dict[int, dict[str, str]]


def _rows(run_dir: Path, images: int) -> tuple[Rows, list[str]]:
    """The rows of metrics.csv up to `images`, by their images seen, as texts; and its columns. Without wall times, and
    without a line that was cut short."""
    path = run_dir / "metrics.csv"
    if not path.is_file():
        return {}, []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        columns = [name for name in reader.fieldnames or () if name not in ("images_seen", *WALL_TIME_COLUMNS)]
        whole = [row for row in reader if None not in row.values()]
    found = {int(row["images_seen"]): {name: row[name] for name in columns} for row in whole}
    return {at: row for at, row in found.items() if at <= images}, columns


def _first_difference(original: Rows, again: Rows, metrics: list[str]) -> dict[str, Any] | None:
    for images in sorted(original.keys() | again.keys()):
        if images not in original or images not in again:
            return {"images_seen": images, "metric": None, "only_in": "original" if images in original else "again"}
        for name in metrics:
            one, other = original[images].get(name, ""), again[images].get(name, "")
            if one != other:
                return {"images_seen": images, "metric": name, **_difference(one, other)}
    return None


def _largest_final_difference(original: Rows, again: Rows, metrics: list[str]) -> dict[str, Any] | None:
    """Of the metrics' last values; None where all are equal."""
    largest: dict[str, Any] | None = None
    last = [
        {name: value for at in sorted(rows) for name, value in rows[at].items() if value} for rows in (original, again)
    ]
    for name in metrics:
        if name in last[0] and name in last[1] and last[0][name] != last[1][name]:
            found = {"metric": name, **_difference(last[0][name], last[1][name])}
            if found["relative"] is not None and (largest is None or found["relative"] > largest["relative"]):
                largest = found
    return largest


def _difference(one: str, other: str) -> dict[str, Any]:
    """Both values, and |a - b| / max(|a|, |b|) where they are numbers."""
    a, b = _value(one), _value(other)
    relative = None
    if isinstance(a, float) and isinstance(b, float) and math.isfinite(a) and math.isfinite(b) and a != b:
        relative = abs(a - b) / max(abs(a), abs(b))
    return {"original": a, "again": b, "relative": relative}


def _value(text: str) -> float | str | None:
    """A cell: a number, the name of a card, or nothing."""
    try:
        return float(text)
    except ValueError:
        return text or None


def _equal_weights(original: Path, again: Path) -> dict[str, bool]:
    """Whether the networks that either run's last checkpoint has are equal to the last bit."""
    one, other = _networks(original), _networks(again)
    return {name: _equal(one.get(name, {}), other.get(name, {})) for name in one | other}


def _networks(run_dir: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The weights of each network of a run's last checkpoint; nothing where there is no checkpoint."""
    path = last_checkpoint(run_dir)
    state = read_checkpoint(path) if path.is_file() else {}
    return {
        name: part
        for name, part in state.items()
        if isinstance(part, dict) and part and all(isinstance(value, torch.Tensor) for value in part.values())
    }


def _equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor.dtype == other[name].dtype
        and tensor.shape == other[name].shape
        and torch.equal(_bytes(tensor), _bytes(other[name]))
        for name, tensor in one.items()
    )


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)  # not a number is equal to itself, 0 is not -0


def _best(record: dict[str, Any]) -> dict[str, Any] | None:
    best = record.get("best")
    return None if best is None else {key: best[key] for key in ("metric", "value", "images_seen", "card_id")}


def _circumstances(original: dict[str, Any], again: dict[str, Any]) -> dict[str, list[Any]]:
    """What may explain a difference: packages, code and machine, where they are not the same."""
    found: dict[str, list[Any]] = {}
    both = [record.get("versions") or {} for record in (original, again)]
    for name in dict.fromkeys([*both[0], *both[1]]):
        found[name] = [versions.get(name) for versions in both]
    both = [record.get("git") or {} for record in (original, again)]
    for part, name in (("commit", "commit"), ("changed", "uncommitted changes")):
        found[name] = [git.get(part) for git in both]
    both = [record.get("machine") or {} for record in (original, again)]
    for name in PLACES:
        found[name] = [machine.get(name) for machine in both]
    return {name: values for name, values in found.items() if values[0] != values[1]}


# ---------------------------------------------------------------------- in words


def in_words(result: dict[str, Any]) -> str:
    """The result as lines of text: the verdict, then the differences, then what may explain them."""
    plural = "" if result["num_rows"] == 1 else "s"
    counted = f"{result['num_rows']} row{plural} of {result['num_metrics']} metrics"
    best, first, largest = result["best"], result["first_difference"], result["largest_final_difference"]
    if result["same"]:
        score = ", the best score" if best else ""
        lines = [f"same: {counted}{score} and all weights are equal, byte for byte"]
    elif result["failure"]:
        lines = [f"different: {result['failure']}"]
    elif first is None:
        lines = [f"different: {counted} are equal, and yet not all else is"]
    elif first["metric"] is None:
        where = "the original" if first["only_in"] == "original" else "the repetition"
        lines = [f"different: only {where} has a row at {first['images_seen']:,} images"]
    else:
        lines = [f"different: first in {first['metric']} at {first['images_seen']:,} images: {_pair(first)}"]
    if largest is not None:
        lines.append(f"largest relative difference of the final metrics: {largest['metric']} {_pair(largest)}")
    if not result["same"]:
        equal = [name for name, same in result["weights"].items() if same]
        unequal = [name for name, same in result["weights"].items() if not same]
        lines.append(f"weights: {_named(unequal, 'differ')}{'; ' if equal and unequal else ''}{_named(equal, 'equal')}")
    if best and best[0] != best[1]:
        shown = [
            f"{one['metric']} {one['value']:.6g} at {one['images_seen']:,} images" if one else "none" for one in best
        ]
        lines.append(f"best: {shown[0]}; now {shown[1]}")
    lines += [f"{name}: {_shown(one)}; now {_shown(other)}" for name, (one, other) in result["differs"].items()]
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])


def _named(names: list[str], what: str) -> str:
    return f"{', '.join(names)} {what}" if names else ""


def _pair(difference: dict[str, Any]) -> str:
    relative = difference["relative"]
    values = f"{_shown(difference['original'])}, now {_shown(difference['again'])}"
    return values if relative is None else f"{values} (relative difference {relative:.1e})"


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return str(value)
