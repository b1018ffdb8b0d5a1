"""The rules of training health: thresholds, persistence, episodes, memory."""

import ast
import json
import math
import random
import sys
from pathlib import Path

import pytest

from gan_lab import health
from gan_lab.health import PROBLEMS, Finding, Watch

BLIND = 2 * math.log(2)
LOSS, ACCURACY = "loss/discriminator", "discriminator/accuracy"
G_NORM, D_NORM = "gradient_norm/generator", "gradient_norm/discriminator"
JUST = 1e-6  # relative distance from a threshold
ABOVE, BELOW = 1 + JUST, 1 - JUST
STEP = 10_000  # images between two log points


def log(watch: Watch, *points: dict[str, float], start: int = STEP) -> list[Finding]:
    """What is found at the log points start, start + STEP, ..."""
    return [
        finding for index, metrics in enumerate(points) for finding in watch.on_metrics(start + index * STEP, metrics)
    ]


def evaluate(watch: Watch, *points: dict[str, float], start: int = STEP, share: float = 0.5) -> list[Finding]:
    return [
        finding
        for index, metrics in enumerate(points)
        for finding in watch.on_evaluation(start + index * STEP, metrics, share_of_budget=share)
    ]


def when(findings: list[Finding]) -> list[tuple[str, int]]:
    return [(finding.problem, finding.images_seen) for finding in findings]


# ------------------------------------------------------------------ not finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", health.LOG_METRICS)
def test_a_logged_number_that_is_not_finite_is_reported_at_once(name, value):
    watch = Watch()
    (finding,) = watch.on_metrics(64, {**dict.fromkeys(health.LOG_METRICS, 1.0), name: value})

    assert finding[:2] == ("non_finite", 64)
    assert f"{name} is {value}" in finding.message
    assert watch.active == {"non_finite"}


@pytest.mark.parametrize("name", ["fid", *health.EVALUATION_METRICS])
def test_an_evaluated_number_that_is_not_finite_is_reported_at_once(name):
    assert when(evaluate(Watch(metric="fid"), {name: math.nan}, share=0.0)) == [("non_finite", STEP)]


def test_other_numbers_may_be_infinite():
    watch = Watch(metric="fid")

    assert log(watch, {"images_per_second": math.inf}) == []
    assert evaluate(watch, {"mode_kl": math.inf, "kid": math.nan}) == []


def test_non_finite_ends_with_the_next_finite_value_of_the_same_metric():
    watch = Watch()
    good, bad = {LOSS: 1.0}, {LOSS: math.nan}

    assert when(log(watch, bad, bad, {D_NORM: 1.0})) == [("non_finite", STEP)]
    assert watch.active == {"non_finite"}  # nothing was said of the loss
    assert log(watch, good) == []
    assert watch.active == set()
    assert len(log(watch, bad)) == 1


def test_a_value_that_is_not_finite_counts_for_no_other_rule():
    """Neither the growing of a streak, nor its end, nor the median."""
    watch = Watch(metric="fid", blind_loss=BLIND, patience_kimg=20)
    won = {LOSS: 0.0, ACCURACY: 1.0}
    findings = log(watch, won, won, {LOSS: math.nan, ACCURACY: 1.0}, won)
    assert when(findings) == [("non_finite", 3 * STEP), ("discriminator_won", 4 * STEP)]

    watch = Watch(metric="fid")
    evaluate(watch, {"fid": 1.0}, {"fid": 2.0}, {"fid": 2.0}, {"fid": math.inf})
    assert when(evaluate(watch, {"fid": 2.0})) == [("late_collapse", STEP)]


# ------------------------------------------------------------------ the discriminator won


WON = {LOSS: 0.01 * BLIND * BELOW, ACCURACY: 0.99 * ABOVE}


def test_discriminator_won_after_the_patience():
    watch = Watch(blind_loss=BLIND)
    findings = log(watch, *[WON] * 30)

    assert when(findings) == [("discriminator_won", 11 * STEP)]  # 100,000 images after the first
    assert watch.active == {"discriminator_won"}
    message = findings[0].message
    for part in (
        "10,000",
        "110,000",
        "below 0.0139",
        "1.39 where D cannot tell, 0 at best",
        "0.99",
        "penalty=r1",
        "optimizer.discriminator.lr",
        "loss=",
    ):
        assert part in message


@pytest.mark.parametrize(
    "metrics",
    [
        {**WON, LOSS: 0.01 * BLIND * ABOVE},
        {**WON, ACCURACY: 0.99},
        {LOSS: WON[LOSS]},
        {ACCURACY: WON[ACCURACY]},
        {},
    ],
)
def test_discriminator_won_needs_both_signs(metrics):
    assert log(Watch(blind_loss=BLIND), *[metrics] * 50) == []


def test_a_loss_that_is_never_0_counts_from_its_least_value():
    """Softmax over 64 reals and 64 fakes: from log 64 to log 128."""
    least, blind = math.log(64), math.log(128)
    level = least + 0.01 * (blind - least)
    above, below = ({LOSS: level + shift, ACCURACY: 1.0} for shift in (1e-6, -1e-6))

    watch = Watch(blind_loss=blind, least_loss=least)
    assert log(watch, *[above] * 30) == []
    assert when(log(watch, *[below] * 30)) == [("discriminator_won", 11 * STEP)]


@pytest.mark.parametrize("blind_loss", [None, 0.0, -1.0])
def test_a_loss_without_a_blind_value_turns_the_rule_off(blind_loss):
    assert log(Watch(blind_loss=blind_loss), *[{LOSS: -50.0, ACCURACY: 1.0}] * 50) == []


def test_one_log_point_short_of_the_patience_is_a_transient():
    watch = Watch(blind_loss=BLIND)
    healthy = {LOSS: 1.2, ACCURACY: 0.7}

    assert log(watch, *([*[WON] * 10, healthy] * 5)) == []


def test_the_patience_is_measured_in_images():
    watch = Watch(blind_loss=BLIND, patience_kimg=1)

    assert watch.on_metrics(5_000, WON) == []
    assert watch.on_metrics(5_999, WON) == []
    assert len(watch.on_metrics(6_000, WON)) == 1


def test_an_unknown_accuracy_does_not_interrupt_but_a_high_loss_does():
    unknown = {LOSS: 0.0}
    assert when(log(Watch(blind_loss=BLIND), *[WON] * 10, unknown, WON)) == [("discriminator_won", 12 * STEP)]
    assert log(Watch(blind_loss=BLIND), *[WON] * 10, {LOSS: 1.0}, *[WON] * 10) == []


def test_the_problem_ends_after_the_same_patience_and_can_begin_again():
    watch = Watch(blind_loss=BLIND)
    healthy = {LOSS: 1.2, ACCURACY: 0.7}
    log(watch, *[WON] * 11)

    assert log(watch, *[healthy] * 10, *[WON] * 20, start=12 * STEP) == []  # a pause is no end
    assert watch.active == {"discriminator_won"}
    assert log(watch, *[healthy] * 11, start=50 * STEP) == []
    assert watch.active == set()
    assert when(log(watch, *[WON] * 20, start=61 * STEP)) == [("discriminator_won", 71 * STEP)]


# ------------------------------------------------------------------ vanishing gradient


def g_norms(*values: float) -> list[dict[str, float]]:
    return [{G_NORM: value} for value in values]


def test_vanishing_gradient_against_the_first_norms():
    watch = Watch()
    findings = log(watch, *g_norms(*[0.5, 2.0, 8.0] * 4, *[2e-3 * BELOW] * 11))

    assert when(findings) == [("vanishing_gradient", 23 * STEP)]
    message = findings[0].message
    parts = ("130,000", "230,000", "0.002", "against 2 at the beginning", "loss=", "penalty=r1")
    for part in (*parts, "optimizer.discriminator.lr"):
        assert part in message


@pytest.mark.parametrize(
    "norms",
    [
        [2.0] * 12 + [2e-3] * 30,  # at the threshold
        [2.0] * 12 + [1e-3] * 10 + [2.0] + [1e-3] * 10,  # transients
        [2.0] * 9 + [1e-3],  # 9 earlier values are no reference ...
        [1e-9] * 30,
    ],
)
def test_no_vanishing_gradient(norms):
    assert log(Watch(), *g_norms(*norms)) == []


@pytest.mark.parametrize(("accuracy", "found"), [(0.9 * ABOVE, 1), (0.9, 0), (0.5, 0)])
def test_a_small_gradient_is_no_failure_where_fakes_cannot_be_told_apart(accuracy, found):
    small = {G_NORM: 1e-3, ACCURACY: accuracy}

    assert len(log(Watch(), *g_norms(*[2.0] * 10), *[small] * 30)) == found
    assert len(log(Watch(), *[{G_NORM: 0.0, ACCURACY: accuracy}] * 30)) == 1


def test_ten_earlier_norms_are_enough():
    assert when(log(Watch(patience_kimg=0), *g_norms(*[2.0] * 10, 1e-3))) == [("vanishing_gradient", 11 * STEP)]
    assert log(Watch(patience_kimg=0), *g_norms(*[2.0] * 9, 1e-3)) == []


def test_a_gradient_of_nothing_needs_no_reference():
    (finding,) = log(Watch(), *g_norms(*[1e-9 * BELOW] * 11))

    assert finding[:2] == ("vanishing_gradient", 11 * STEP)
    assert "median" not in finding.message


def test_a_gradient_that_vanished_early_does_not_become_the_reference():
    """With more vanished than healthy values, a median over all would be a vanished one."""
    watch = Watch()
    findings = log(watch, *g_norms(*[2.0] * 10, *[1e-4] * 1000))

    assert when(findings) == [("vanishing_gradient", 21 * STEP)]
    assert watch.active == {"vanishing_gradient"}


def test_a_missing_norm_does_not_interrupt():
    assert when(log(Watch(), *g_norms(*[0.0] * 10), {LOSS: 1.0, D_NORM: 3.0}, *g_norms(0.0))) == [
        ("vanishing_gradient", 12 * STEP)
    ]


def test_the_discriminators_gradient_may_vanish():
    assert log(Watch(), *[{D_NORM: value} for value in [2.0] * 12 + [0.0] * 30]) == []


# ------------------------------------------------------------------ exploding gradient


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_exploding_gradient_at_three_log_points(player):
    watch = Watch()
    name = f"gradient_norm/{player}"
    findings = log(watch, *[{name: value} for value in [2.0, 3.0, 4.0, *[300 * ABOVE] * 6]])

    assert when(findings) == [("exploding_gradient", 6 * STEP)]
    message = findings[0].message
    for part in (
        f"{name} is 300, 3 at the beginning",
        "40,000",
        f"optimizer.clip_norm.{player}=1",
        f"optimizer.{player}.lr",
        "penalty=r1",
    ):
        assert part in message
    other = "generator" if player == "discriminator" else "discriminator"
    assert f"clip_norm.{other}" not in message


@pytest.mark.parametrize(
    "norms",
    [
        [3.0] * 5 + [300.0] * 20,  # 100 times the median exactly
        [0.5] * 5 + [100.0] * 20,  # 100 exactly
        [3.0] * 5 + [301.0, 301.0, 3.0] * 20,
        [1e4] * 30,  # the scale of this run from its first step
    ],
)
def test_no_exploding_gradient(norms):
    assert log(Watch(), *g_norms(*norms)) == []


def test_both_players_may_explode_together_and_are_named():
    watch = Watch()
    (finding,) = log(watch, {G_NORM: 1.0, D_NORM: 1.0}, *[{G_NORM: 500.0, D_NORM: 900.0}] * 3)

    for part in ("500", "900", "optimizer.clip_norm.generator=1 and optimizer.clip_norm.discriminator=1"):
        assert part in finding.message


def test_an_explosion_ends_after_three_calm_log_points():
    watch = Watch()
    assert len(log(watch, *g_norms(1.0, *[500.0] * 3))) == 1
    assert log(watch, *g_norms(1.0, 1.0, *[500.0] * 3)) == []
    assert watch.active == {"exploding_gradient"}
    assert log(watch, *g_norms(1.0, 1.0, 1.0, 500.0, 500.0)) == []
    assert watch.active == set()
    assert len(log(watch, *g_norms(500.0))) == 1


def test_an_explosion_does_not_become_the_reference():
    watch = Watch()

    assert len(log(watch, *g_norms(1.0, 1.0, *[500.0] * 1000))) == 1
    assert watch.active == {"exploding_gradient"}


def test_the_reference_is_the_median_of_the_first_ten_norms():
    watch = Watch()
    log(watch, *g_norms(*map(float, range(1, 1000))))

    assert watch.state()["norms"]["generator"] == list(range(1, 11))


# ------------------------------------------------------------------ mode collapse


FEW, MANY = ({"diversity": value, "diversity/floor": 10.0} for value in (1.0, 9.0))
COLLAPSED = [
    ({"diversity": 5 * BELOW, "diversity/floor": 10.0}, ("diversity is 5, less than 0.5 of diversity/floor, 10",)),
    ({"recall": 0.02 * BELOW, "precision": 0.1 * ABOVE}, ("recall is 0.02", "precision is 0.1")),
    ({"modes_covered": 12.0}, ("modes_covered is 12 of 25",)),
    ({**FEW, "recall": 0.5, "precision": 0.5, "modes_covered": 25.0}, ("diversity is 1",)),
]
DIVERSE = [
    {"diversity": 5.0, "diversity/floor": 10.0},
    {"diversity": 0.1},
    {"diversity": 0.0, "diversity/floor": 0.0},
    {"recall": 0.02, "precision": 0.9},
    {"recall": 0.0, "precision": 0.1},
    {"recall": 0.0},
    {"recall": 0.5},
    {"precision": 0.0},
    {"modes_covered": 12.5},
    {"coverage": 0.0},
    {},
]


@pytest.mark.parametrize(("metrics", "parts"), COLLAPSED)
def test_mode_collapse_at_three_evaluations(metrics, parts):
    watch = Watch(num_modes=25)
    findings = evaluate(watch, *[metrics] * 10, share=0.2)

    assert when(findings) == [("mode_collapse", 3 * STEP)]
    for part in (*parts, "30,000", "penalty=r1", "loss=relativistic", "penalty=r1_r2", "optimizer.generator.lr"):
        assert part in findings[0].message


def test_only_the_signs_of_collapse_are_named():
    (finding,) = evaluate(Watch(num_modes=25), *[COLLAPSED[3][0]] * 3)

    assert "recall" not in finding.message
    assert "modes_covered" not in finding.message


@pytest.mark.parametrize("metrics", DIVERSE)
def test_no_mode_collapse(metrics):
    assert evaluate(Watch(num_modes=25), *[metrics] * 10) == []


def test_modes_are_not_judged_where_their_number_is_unknown():
    assert evaluate(Watch(), *[{"modes_covered": 1.0}] * 10) == []


def test_early_evaluations_do_not_count():
    watch = Watch()

    assert evaluate(watch, *[FEW] * 10, share=0.199) == []
    assert evaluate(watch, FEW, FEW, share=0.2) == []
    assert len(evaluate(watch, FEW, share=0.2)) == 1


def test_two_noisy_evaluations_are_no_collapse():
    assert evaluate(Watch(), *[FEW, FEW, MANY] * 5) == []


def test_an_evaluation_without_the_metric_neither_counts_nor_interrupts():
    other = {"sliced_wasserstein": 1.0}
    watch = Watch()

    assert when(evaluate(watch, FEW, other, FEW, other, FEW)) == [("mode_collapse", 5 * STEP)]
    assert evaluate(watch, *[other] * 5) == []
    assert watch.active == {"mode_collapse"}


# ------------------------------------------------------------------ an overfitting discriminator


def test_discriminator_overfitting_at_three_evaluations():
    watch = Watch()
    findings = evaluate(watch, *[{"discriminator/gap": 0.8 * ABOVE}] * 10, share=0.0)

    assert when(findings) == [("discriminator_overfitting", 3 * STEP)]
    for part in (
        "discriminator/gap is 0.8",
        "10,000",
        "model.discriminator.dropout",
        "penalty=r1",
        "checkpoints/best.ckpt",
    ):
        assert part in findings[0].message


def test_overfitting_does_not_end_where_the_gap_is_not_known():
    watch = Watch()
    over = {"discriminator/gap": 0.9}

    assert len(evaluate(watch, over, over, over, *[{"recall": 0.5}] * 10)) == 1
    assert watch.active == {"discriminator_overfitting"}


def test_no_overfitting():
    assert evaluate(Watch(), *[{"discriminator/gap": 0.8}] * 10) == []
    assert evaluate(Watch(), *[{"discriminator/gap": gap} for gap in (0.9, 0.9, 0.4) * 5]) == []


# ------------------------------------------------------------------ late collapse


def fids(*values: float) -> list[dict[str, float]]:
    return [{"fid": value} for value in values]


def test_late_collapse_at_three_evaluations():
    watch = Watch(metric="fid")
    findings = evaluate(watch, *fids(90, 40, 50, *[60 * ABOVE] * 10))

    assert when(findings) == [("late_collapse", 6 * STEP)]
    parts = ("fid is 60", "60,000", "1.5 times", "40 at 20,000 images", "checkpoints/best.ckpt")
    for part in (*parts, "gan-lab sample weights=best", "optimizer.lr"):
        assert part in findings[0].message


def test_late_collapse_where_larger_is_better():
    watch = Watch(metric="recall", larger_is_better=True)
    recall = [{"recall": value} for value in (0.1, 0.6, 0.5, *[0.4 * BELOW] * 3)]

    assert when(evaluate(watch, *recall)) == [("late_collapse", 6 * STEP)]
    assert evaluate(Watch(metric="recall", larger_is_better=True), *recall[:3], *[{"recall": 0.6 / 1.5}] * 9) == []


@pytest.mark.parametrize(
    "values",
    [
        [40, *[60] * 10],
        [40, 61, 61, 59, 61, 61, 59],
        [400, 300, 200, 100, 50, 40],
        [-1e-3, *[1.0] * 10],  # unbiased estimates, such as KID's, can be negative: no ratio then
        [0.0, *[1.0] * 10],
    ],
)
def test_no_late_collapse(values):
    assert evaluate(Watch(metric="fid"), *fids(*values)) == []


def test_larger_is_better_with_a_best_that_is_not_positive():
    assert evaluate(Watch(metric="fid", larger_is_better=True), *fids(-1.0, *[-9.0] * 10)) == []


def test_the_floor_of_the_metric_is_the_least_reference():
    def found(*values: float) -> list[Finding]:
        return evaluate(Watch(metric="fid"), *[{**fid, "fid/floor": 0.1} for fid in fids(*values)])

    assert found(-0.01, 0.05, *[0.15 * BELOW] * 10) == []
    assert len(found(-0.01, 0.05, *[0.15 * ABOVE] * 10)) == 1
    assert found(0.2, *[0.3] * 10) == []


def test_without_a_deciding_metric_there_is_no_late_collapse():
    assert evaluate(Watch(), *fids(1, *[100] * 10)) == []


def test_a_new_best_ends_a_late_collapse_like_any_good_evaluation():
    watch = Watch(metric="fid")
    assert len(evaluate(watch, *fids(10, 20, 20, 20))) == 1
    assert evaluate(watch, *fids(5, 5, 20, 20, 20)) == []
    assert evaluate(watch, *fids(5, 5, 5)) == []
    assert watch.active == set()
    assert len(evaluate(watch, *fids(20, 20, 20))) == 1


# ------------------------------------------------------------------ whole runs


def healthy_run(seed: int, num: int = 600) -> list[tuple[str, int, dict[str, float], float]]:
    """(call, images_seen, metrics, share_of_budget): a DCGAN-like run with a strong D at first, noise and outliers."""
    rng = random.Random(seed)
    calls = []
    for index in range(1, num + 1):
        images, share = index * 2_000, index / num
        early = index <= 10
        metrics = {
            LOSS: 0.0027 if early else rng.uniform(0.4, 1.3),
            "loss/generator": 5.5 if early else rng.uniform(0.7, 3.0),
            ACCURACY: 1.0 if early else rng.uniform(0.7, 1.0),
            G_NORM: rng.lognormvariate(0, 1) * (300 if index % 97 == 0 else 1),
            D_NORM: rng.lognormvariate(1, 1),
        }
        calls.append(("log", images, metrics, share))
        if index % 20 == 0:
            evaluation = {
                "fid": 20 + 300 * math.exp(-6 * share) + rng.uniform(0, 6),
                "recall": 0.6 * share,
                "precision": min(0.8, 2 * share),
                "coverage": share,
                "diversity": 0.2 if share < 0.15 else rng.uniform(0.7, 1.1),
                "diversity/floor": 1.0,
                "modes_covered": float(int(25 * min(1, 3 * share))),
                "discriminator/gap": rng.uniform(-0.1, 0.3) + 0.2 * share,
            }
            calls.append(("evaluation", images, evaluation, share))
    return calls


def play(watch: Watch, calls: list[tuple[str, int, dict[str, float], float]]) -> list[Finding]:
    findings = []
    for call, images, metrics, share in calls:
        if call == "log":
            findings += watch.on_metrics(images, metrics)
        else:
            findings += watch.on_evaluation(images, metrics, share_of_budget=share)
    return findings


def new_watch() -> Watch:
    return Watch(blind_loss=BLIND, metric="fid", num_modes=25, patience_kimg=20)


@pytest.mark.parametrize("seed", range(10))
def test_a_healthy_run_raises_nothing(seed):
    watch = new_watch()

    assert play(watch, healthy_run(seed)) == []
    assert watch.active == set()


def sick_run() -> list[tuple[str, int, dict[str, float], float]]:
    """A run that has every problem, most of them twice, and metrics that come and go."""
    rng = random.Random(1)
    calls = []
    for index in range(1, 301):
        images, share = index * 2_000, index / 300
        bad = 60 <= index % 150 < 120
        metrics = {
            LOSS: 0.001 if bad else 1.0,
            ACCURACY: 1.0 if bad else 0.7,
            G_NORM: 1e-5 if bad else rng.lognormvariate(0, 1),
            D_NORM: 5_000.0 if bad else rng.lognormvariate(0, 1),
            "loss/generator": math.nan if index in (50, 51, 140) else 1.0,
        }
        calls.append(("log", images, {name: value for name, value in metrics.items() if rng.random() < 0.9}, share))
        if index % 5 == 0:
            evaluation = {
                "fid": 100.0 if bad else 20.0 + rng.random(),
                "diversity": 0.1 if bad else 0.9,
                "discriminator/gap": 0.9 if bad else 0.1,
            }
            some = {name: value for name, value in evaluation.items() if rng.random() < 0.9}
            calls.append(("evaluation", images, some | {"diversity/floor": 1.0}, share))
    return calls


def test_the_sick_run_has_every_problem():
    problems = [finding.problem for finding in play(new_watch(), sick_run())]

    assert {problem: problems.count(problem) for problem in PROBLEMS} == dict.fromkeys(PROBLEMS, 2)


def test_a_run_that_is_resumed_anywhere_finds_what_the_uninterrupted_run_finds():
    calls = sick_run()
    whole_watch = new_watch()
    whole = play(whole_watch, calls)
    first = new_watch()
    found: list[Finding] = []
    for split in range(len(calls) + 1):
        state = first.state()
        text = json.dumps(state, allow_nan=False)
        assert json.loads(text) == state  # no tuples, no keys that are not strings
        resumed = new_watch()
        resumed.load_state(json.loads(text))

        assert resumed.active == first.active
        assert found + play(resumed, calls[split:]) == whole
        assert resumed.state() == whole_watch.state()
        found += play(first, calls[split : split + 1])


def test_a_state_is_a_copy_both_ways():
    calls = sick_run()
    watch, other = new_watch(), new_watch()
    play(watch, calls[:100])
    state = watch.state()
    before = json.dumps(state)
    other.load_state(state)
    play(watch, calls[100:])
    play(other, calls[100:])

    assert json.dumps(state) == before


def test_problems_that_begin_together_come_in_their_order():
    watch = Watch(blind_loss=BLIND, metric="fid", patience_kimg=0, patience_log_points=1, patience_evaluations=1)
    log(watch, *[{G_NORM: 1.0, D_NORM: 1.0}] * 10)
    evaluate(watch, *fids(1))
    findings = log(watch, {LOSS: 0.0, "loss/generator": math.inf, ACCURACY: 1.0, G_NORM: 1e-5, D_NORM: 1e5})
    watch.on_metrics(0, {"loss/generator": 1.0})
    sick = {"fid": 2.0, "recall": math.nan, **FEW, "discriminator/gap": 0.9}

    assert [finding.problem for finding in findings] == list(PROBLEMS[:4])
    assert [finding.problem for finding in evaluate(watch, sick)] == ["non_finite", *PROBLEMS[4:]]


def test_messages_are_short_and_have_numbers():
    findings = play(new_watch(), sick_run())
    for finding in findings:
        assert 60 < len(finding.message) < 600
        assert any(character.isdigit() for character in finding.message)
        assert "  " not in finding.message
        assert "\n" not in finding.message


def test_only_the_standard_library_is_needed():
    tree = ast.parse(Path(health.__file__).read_text())
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]

    assert {module.split(".")[0] for module in modules} <= sys.stdlib_module_names
