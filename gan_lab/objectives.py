"""What runs are compared by: which way a metric is better, what decides where nobody says so, what counts of a run."""

from collections.abc import Mapping
from typing import Any, Literal

Direction = Literal["minimize", "maximize"]

USUAL_OBJECTIVES = ("fid", "fd", "kid", "kd", "sliced_wasserstein")
"""What decides where nobody said so, as in a run with objective=auto: the first of these that is measured."""


def direction_of(metric: str) -> Direction:
    """Which way a metric is better."""
    from gan_lab.evaluation import LARGER_IS_BETTER  # waits for torch

    return "maximize" if metric in LARGER_IS_BETTER else "minimize"


def value_of(record: Mapping[str, Any], metric: str, of_best: bool = True) -> float | None:
    """What counts of a metric in a run's record (run.json): the best generator's value where that was chosen by it, and
    else, or without `of_best`, the last. None where there is none, or a file has null for what is no finite number."""
    best = record.get("best", {})
    return best["value"] if of_best and best.get("metric") == metric else record.get("metrics", {}).get(metric)
