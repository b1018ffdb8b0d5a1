"""callbacks=profile: the parts add up to the time, and training is what it is without."""

import json
import re
import time

import pytest
from conftest import assert_same
from test_cli import SMALL, called, done

from gan_lab.callbacks.profile import Stopwatch
from gan_lab.files import read_checkpoint

RUN = ("train", *SMALL, "evaluation=none", "objective=null", "budget.kimg=0.112")
PROFILE = ("callbacks=profile", "callbacks.profile.skip=1", "callbacks.profile.num_cycles=2")


def test_time_inside_a_timed_call_counts_for_the_inner_one_alone():
    watch = Stopwatch(lambda: None)
    inner = watch.timed("inner", lambda: time.sleep(0.05))

    def work() -> None:
        time.sleep(0.02)
        inner()
        inner()

    begun = time.perf_counter()
    watch.timed("outer", work)()
    whole = time.perf_counter() - begun
    assert watch.seconds["inner"] >= 0.1
    assert watch.seconds["outer"] >= 0.02
    assert sum(watch.seconds.values()) == pytest.approx(whole, abs=0.01)


def test_a_call_that_fails_leaves_the_stopwatch_in_order():
    watch = Stopwatch(lambda: None)

    def fail() -> None:
        raise ValueError

    for _ in range(2):
        with pytest.raises(ValueError):  # noqa: PT011 # the very one from above
            watch.timed("failing", fail)()
    assert watch._stack == []


@pytest.mark.parametrize("method", ["loss=vanilla", "loss=wgan_gp"])
def test_every_part_of_a_cycle_is_named_and_the_shares_add_up(tmp_path, method):
    done(*RUN, *PROFILE, method, "budget.kimg=0.56", "hydra.run.dir=run", cwd=tmp_path)
    summary = (tmp_path / "run" / "profile" / "summary.txt").read_text()
    rows = re.findall(r"^ +([\d.]+)% +([\d.]+) ms  (.+)$", summary, re.MULTILINE)
    names = {name for _, _, name in rows}
    expected = {"data and Trainer", "rest of the step", "noise", "records", "averaged generator"}
    expected |= {f"{player}: {part}" for player in "DG" for part in ("fakes", "logits", "backward", "optimizer")}
    expected |= {"callbacks: metrics, pictures, evaluation, checkpoints"}
    expected |= {"D: penalties"}  # also where there are none to compute
    assert names == expected
    cycle = float(re.search(r"a cycle takes ([\d.]+) ms", summary)[1])
    assert sum(float(milliseconds) for _, milliseconds, _ in rows) == pytest.approx(cycle, abs=0.05)
    assert sum(float(share) for share, _, _ in rows) == pytest.approx(100, abs=1)
    assert "aten::addmm" in summary
    trace = json.loads((tmp_path / "run" / "profile" / "trace.json").read_text())
    assert any(event.get("name") == "aten::addmm" for event in trace["traceEvents"])


def test_a_profiled_run_is_the_run_without(tmp_path):
    for name, more in (("plain", ()), ("profiled", PROFILE)):
        done(*RUN, *more, "name=same", f"hydra.run.dir={name}", cwd=tmp_path)
    plain, profiled = (tmp_path / name for name in ("plain", "profiled"))
    assert (profiled / "profile" / "trace.json").exists()
    one, other = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (plain, profiled))
    one["wall_seconds"] = other["wall_seconds"] = 0.0
    assert_same(one, other)


def test_a_run_that_is_too_short_says_so(tmp_path):
    result = called(*RUN, "callbacks=profile", "hydra.run.dir=run", cwd=tmp_path)
    assert "no profile: the run ended after 7 cycles, callbacks.profile needs 120" in result.err
    assert not (tmp_path / "run" / "profile").exists()
