"""Which way a metric is better, and what counts of it in a run."""

import subprocess
import sys

import pytest

from gan_lab.objectives import direction_of, value_of


@pytest.mark.parametrize(
    ("metric", "direction"),
    [
        ("fd", "minimize"),
        ("recall", "maximize"),
        ("images_per_second", "maximize"),
        ("loss/generator", "minimize"),
        ("of another version", "minimize"),
    ],
)
def test_direction(metric: str, direction: str) -> None:
    assert direction_of(metric) == direction


def test_the_value_of_a_run() -> None:
    record = {"metrics": {"fd": 5.0, "recall": 0.3}, "best": {"metric": "fd", "value": 2.0}}
    assert value_of(record, "fd") == 2.0
    assert value_of(record, "fd", of_best=False) == 5.0
    assert value_of(record, "recall") == 0.3
    assert value_of(record, "coverage") is None
    assert value_of({"metrics": {"fd": None}}, "fd") is None
    assert value_of({}, "fd") is None


def test_objectives_do_not_wait_for_torch() -> None:
    code = "import sys, gan_lab.objectives; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
