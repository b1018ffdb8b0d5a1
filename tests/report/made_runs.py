"""Run and sweep directories written by hand, with numbers that a test can work out."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

FLOOR = 2.0
RECALL_FLOOR = 0.8
CARD = "aaaa1111"
OTHER_CARD = "bbbb2222"
CARDS = {
    CARD: {
        "metrics": ["frechet", "manifold"],
        "num_fake": 500,
        "num_real": 500,
        "data": "d1",
        "split": "train",
        "seed": 0,
        "extractor_name": "cnn",
        "extractor_hash": "e1",
        "weights": "ema",
        "noise_seed": 1,
    },
    OTHER_CARD: {
        "metrics": ["frechet", "manifold"],
        "num_fake": 300,
        "num_real": 300,
        "data": "d1",
        "split": "train",
        "seed": 0,
        "extractor_name": "cnn",
        "extractor_hash": "e1",
        "weights": "ema",
        "noise_seed": 1,
    },
}


def config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as resolved.yaml has it: the few keys that matter here, changed by dotted keys."""
    content: dict[str, Any] = {
        "name": "digits-mlp",
        "seed": 0,
        "batch_size": 64,
        "budget": {"kimg": 40, "minutes": None},
        "model": {"width": 64, "generator": {"_target_": "gan_lab.models.mlp.Generator", "width": 64}},
        "loss": {"adversarial": {"_target_": "gan_lab.losses.vanilla"}, "penalty": None},
        "optimizer": {"lr": 2e-4, "generator": {"lr": 2e-4}, "discriminator": {"lr": 2e-4}},
        "accelerator": {"device": "auto", "num_threads": None},
        "evaluation": {"num_samples": 500},
        "logger": {"tensorboard": {"flush_secs": 30}},
        "callbacks": {"health": {"action": "warn"}},
        "objective": "auto",
        "debug": False,
    }
    for key, value in settings.items():
        node = content
        *parents, last = key.split(".")
        if not parents and isinstance(content.get(key), dict):  # the option of a group
            content[key] = {"adversarial": {"_target_": f"gan_lab.losses.{value}"}, "penalty": None}
            continue
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
        if key == "optimizer.lr":
            content["optimizer"]["generator"]["lr"] = content["optimizer"]["discriminator"]["lr"] = value
    return content


def write_run(
    path: Path,
    values: Sequence[float] = (),
    *,
    recall: Sequence[float] = (),
    status: str = "finished",
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    overrides: Sequence[str] | None = None,
    card: str = CARD,
    objective: str = "fd",
    images_between: int = 10_000,
    pictures: Sequence[int] = (),
    trial: Mapping[str, Any] | None = None,
    **record: Any,
) -> Path:
    """A run that was evaluated each `images_between` images with these values of fd (and recall, 0.5 by default)."""
    settings = dict(settings or {})
    (path / ".hydra").mkdir(parents=True)
    resolved = config({**settings, "seed": seed})
    (path / ".hydra" / "resolved.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))
    typed = [*[f"{key}={value}" for key, value in settings.items()], f"seed={seed}"] if overrides is None else overrides
    (path / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(typed)))
    recall = recall or [0.5] * len(values)
    rows = []
    for index, value in enumerate(values):
        images = (index + 1) * images_between
        base = {"loss/discriminator": 1.0 + index, "loss/generator": 0.5, "wall_seconds": 2.0 * (index + 1)}
        rows.append({"images_seen": images - images_between // 2, **base, "wall_seconds": 2.0 * index + 1})
        scores = {"fd": value, "recall": recall[index], "fd/floor": FLOOR, "recall/floor": RECALL_FLOOR}
        rows.append({"images_seen": images, **base, **scores, "card": card})
    if rows:
        with (path / "metrics.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[-1]), restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    content: dict[str, Any] = {
        "status": status,
        "name": "digits-mlp",
        "seed": seed,
        "started": f"2026-01-02T03:04:{seed % 60:02d}+00:00",
        "command": ["gan-lab", "train", *typed, "hydra.run.dir=somewhere"],
        "versions": {"gan_lab": "0.1.0", "python": "3.11.7", "torch": "2.14.1", "numpy": "2.4.6"},
        "git": {"commit": "045b5054f3ea77df94936c8dcf606547e1c37816", "changed": False},
        "machine": {"device": "cpu", "system": "Linux", "cores": 2, "threads": 1},
        "images_seen": len(values) * images_between,
        "wall_seconds": 2.0 * len(values),
        "images_per_second": images_between / 2.0 if values else None,
        "error": None,
        "resumed": [],
    }
    if values:
        pick = max if objective == "recall" else min
        deciding = recall if objective == "recall" else values
        best = pick(range(len(values)), key=lambda index: deciding[index])
        scores = {"fd": values[best], "recall": recall[best]}
        content["cards"] = {card: CARDS[card]}
        content["best"] = {
            "metric": objective,
            "value": scores[objective],
            "images_seen": (best + 1) * images_between,
            "weights": "ema",
            "card_id": card,
            "scores": scores,
        }
        if status == "finished":
            content["metrics"] = {key: value for key, value in rows[-1].items() if key not in ("images_seen", "card")}
    (path / "run.json").write_text(json.dumps(content | record))
    (path / "run.log").write_text("".join(f"line {index}\n" for index in range(30)))
    if pictures:
        (path / "samples").mkdir()
        for images in pictures:
            write_picture(path / "samples" / f"{images:09d}.png", shade=images // 1000 % 256)
        write_picture(path / "samples" / "real.png", shade=255)
    if trial is not None:
        write_trial(path, {"status": status, **trial})
    return path


def write_picture(path: Path, shade: int = 0, side: int = 16) -> None:
    Image.new("L", (side, side), shade).save(path)


def write_trial(path: Path, content: Mapping[str, Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    base: dict[str, Any] = {
        "number": int(path.name),
        "overrides": [],
        "params": {},
        "status": "finished",
        "kind": None,
        "reason": None,
        "values": {},
        "attempts": 1,
        "started": "2026-01-02T03:04:05+00:00",
        "ended": "2026-01-02T03:05:05+00:00",
        "seconds": 60.0,
        "host": "box",
        "threads": 1,
        "device": "cpu",
    }
    (path / "trial.json").write_text(json.dumps(base | dict(content)))


def write_sweep(path: Path, **content: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    base: dict[str, Any] = {
        "kind": "grid",
        "name": "a-sweep",
        "arguments": ["loss=vanilla,hinge"],
        "command": "gan-lab train -m loss=vanilla,hinge",
        "objectives": {"fd": "minimize"},
        "num_trials": 4,
        "space": [],
        "study": None,
        "status": "finished",
        "started": "2026-01-02T03:04:05+00:00",
        "ended": "2026-01-02T03:14:05+00:00",
    }
    (path / "sweep.json").write_text(json.dumps(base | content))
    return path


def seeds(folder: Path, **values_of: Sequence[float]) -> Path:
    """A run for each value: losses by name, a seed for each of its values; each run has one evaluation."""
    for loss, values in values_of.items():
        for seed, value in enumerate(values, start=1):
            write_run(folder / f"{loss}-{seed}", [value], seed=seed, settings={"loss": loss})
    return folder
