import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from gan_lab.compose import Composer
from gan_lab.config import Component, check_against
from gan_lab.ema import ema_decay
from gan_lab.errors import ConfigError
from gan_lab.schedules import Schedules, Values, cosine

BUDGET = 100_000


@dataclass
class Group:
    schedule: Component


@cache
def option(name: str) -> dict[str, Any]:
    """The content of conf/schedule/NAME.yaml."""
    Composer()  # tells Hydra where conf/ is
    content = OmegaConf.to_container(compose(overrides=[f"+schedule={name}"]).schedule)
    GlobalHydra.instance().clear()
    assert isinstance(content, dict)
    return content


def built(name: str, **changes: Any) -> Schedules:
    content = {**option(name), **changes}
    assert content.pop("_target_") == "gan_lab.schedules.Schedules"
    return Schedules(**content)


def r3gan(images: float, start: float, end: float, over: float) -> float:
    """cosine_decay_with_warmup of the authors' training_loop.py, without its warm-up and hold."""
    decay = 0.5 * (1 + math.cos(math.pi * images / over))
    return end if images > over else start + (1 - decay) * (end - start)


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.25), (0.9, 0.99), (0.0, 1.0), (1.0, 0.1)])
def test_the_curve_at_quarters(start, end):
    quarter = (1 - math.sqrt(0.5)) / 2
    shares = {0: 0, 0.25: quarter, 0.5: 0.5, 0.75: 1 - quarter, 1: 1, 1.001: 1, 7: 1}
    for progress, share in shares.items():
        assert cosine(start, end, progress) == pytest.approx(start + share * (end - start), rel=1e-14, abs=1e-16)
    assert cosine(start, end, 0) == start
    assert cosine(start, end, 1) == cosine(start, end, 2) == end


@pytest.mark.parametrize(("start", "end"), [(1, 0.1), (0.9, 0.99), (1, 1)])
def test_the_curve_never_turns_and_never_leaves_its_ends(start, end):
    values = [cosine(start, end, step / 200) for step in range(301)]

    assert values == sorted(values, reverse=end < start)
    assert {values[0], values[-1]} == {start, end}


def test_the_whole_budget_or_so_many_images():
    whole, part = Schedules(lr_factor=(1, 0)), Schedules(over_kimg=20, lr_factor=(1, 0))

    assert whole.at(50_000, BUDGET).lr_factor == pytest.approx(0.5, rel=1e-15)
    assert part.at(10_000, BUDGET).lr_factor == pytest.approx(0.5, rel=1e-15)
    assert part.at(20_000, BUDGET).lr_factor == 0
    assert part.at(10_000, BUDGET) == part.at(10_000, 10 * BUDGET)
    assert Schedules(over_kimg=200, lr_factor=(1, 0)).at(BUDGET, BUDGET).lr_factor == pytest.approx(
        0.5, rel=1e-15
    )  # cut short


@pytest.mark.parametrize("images", [0, 1, 777, 50_000, 99_999, 100_000, 250_000])
def test_none_changes_nothing(images):
    expected = Values(lr_factor=1.0, beta1=None, beta2=None, penalty_factor=1.0, half_life_factor=1.0)

    assert Schedules().at(images, BUDGET) == built("none").at(images, BUDGET) == expected
    assert {type(value) for value in built("none").at(images, BUDGET)} == {float, type(None)}


def test_every_pair_goes_its_own_way():
    betas = {"beta1": (0.5, 0.0), "beta2": (0.1, 0.3)}
    schedules = Schedules(lr_factor=(1, 2), **betas, penalty_factor=(3, 4), half_life_factor=(5, 7))

    assert schedules.at(0, BUDGET) == Values(1, 0.5, 0.1, 3, 5)
    assert schedules.at(BUDGET // 2, BUDGET) == pytest.approx(Values(1.5, 0.25, 0.2, 3.5, 6), rel=1e-15)
    assert schedules.at(BUDGET, BUDGET) == Values(2, 0.0, 0.3, 4, 7)


@pytest.mark.parametrize("images", [0, 1_000_000, 10_000_000, 19_999_999, 20_000_000, 20_000_001, 200_000_000])
def test_burn_in_is_that_of_the_authors_cifar10(images):
    """train.py, preset CIFAR10: burn-in over 20 million images of 250. Small differences cancel some digits."""
    over = 2e7
    values = built("burn_in", over_kimg=20_000).at(images, 250_000_000)

    assert 2e-4 * values.lr_factor == pytest.approx(r3gan(images, 2e-4, 5e-5, over), rel=1e-13)
    assert values.beta2 == pytest.approx(r3gan(images, 0.9, 0.99, over), rel=1e-14)
    assert 0.05 * values.penalty_factor == pytest.approx(r3gan(images, 0.05, 0.005, over), rel=1e-13)
    assert 5e6 * values.half_life_factor == pytest.approx(r3gan(images, 0, 5e6, over), rel=1e-13)


def test_burn_in_starts_with_the_weights_themselves_as_their_average():
    values = built("burn_in").at(0, BUDGET)

    assert ema_decay(64, 0, 10_000 * values.half_life_factor, None) == 0


@pytest.mark.parametrize("name", ["none", "burn_in"])
def test_the_files_pass_the_check(name):
    check_against(Group, {"schedule": option(name)})
    factors = {"lr_factor", "penalty_factor", "half_life_factor"}
    assert set(option(name)) == {"_target_", "over_kimg", "beta1", "beta2", *factors}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("over_kimg", 0, "a number above 0 or null"),
        ("lr_factor", [1], "a list of 2 (a number at least 0)"),
        ("penalty_factor", 0.1, "a list of 2 (a number at least 0)"),
        ("half_life_factor", [0, -1], "a list of 2 (a number at least 0)"),
        ("beta1", [-0.1, 0.5], "a list of 2 (a number at least 0 and below 1) or null"),
        ("beta2", [0.9, 1.0], "a list of 2 (a number at least 0 and below 1) or null"),
    ],
)
def test_what_is_out_of_range_is_refused(name, value, expected):
    with pytest.raises(ConfigError) as refused:
        check_against(Group, {"schedule": {**option("burn_in"), name: value}})

    assert refused.value.problems == [f"schedule.{name}={value}: expected {expected}"]
