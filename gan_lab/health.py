"""Training health: rules that turn the metrics of a run into diagnoses in plain words.

Only the standard library is imported, so that the rules can also be applied to a log file where torch is missing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

PROBLEMS = (
    "non_finite",
    "discriminator_won",
    "vanishing_gradient",
    "exploding_gradient",
    "mode_collapse",
    "discriminator_overfitting",
    "late_collapse",
)
PLAYERS = ("generator", "discriminator")
LOG_METRICS = (
    "loss/discriminator",
    "loss/generator",
    "loss/penalty",
    "discriminator/accuracy",
    "gradient_norm/generator",
    "gradient_norm/discriminator",
)
"""What `Watch.on_metrics` looks at; everything else is ignored."""
EVALUATION_METRICS = ("recall", "precision", "coverage", "diversity", "modes_covered", "discriminator/gap")
"""What `Watch.on_evaluation` looks at beside the deciding metric, and the floors of diversity and of that metric."""

# These must hold for a number of images; the others for a number of log points or evaluations.
_TIMED = frozenset({"discriminator_won", "vanishing_gradient"})

WON_LOSS_SHARE = 0.01
WON_ACCURACY = 0.99
"""discriminator_won is loss/discriminator above least_loss by less than this share of what blind_loss is, and
discriminator/accuracy above this."""

NUM_NORMS = 10
"""A player's gradient norms of the first so many log points are its reference, by their median."""
VANISHING_SHARE = 1e-3
VANISHING_ACCURACY = 0.9
VANISHING_NORM = 1e-9
"""vanishing_gradient is a norm of G below the first, as a share of its reference, while D is right more often than the
second; or below the third in any case."""
EXPLODING_NORM = 100.0
EXPLODING_FACTOR = 100.0
"""exploding_gradient is a norm above the first, and above its player's reference times the second."""

COLLAPSE_SHARE_OF_BUDGET = 0.2
"""mode_collapse is not judged before this share of the budget is used."""
MIN_DIVERSITY_SHARE = 0.5
MIN_RECALL = 0.02
MIN_PRECISION = 0.1
MIN_MODES_SHARE = 0.5
"""mode_collapse is a diversity below the first, as a share of its floor, or a recall below the second with a precision
above the third, or fewer modes than the fourth, as a share of num_modes."""


class Finding(NamedTuple):
    """A problem that has begun: one of PROBLEMS, when it was found, and what was seen, what it means, what to try."""

    problem: str
    images_seen: int
    message: str


@dataclass(kw_only=True, eq=False)
class Watch:
    """Finds the known failures of GAN training in what a run logs and evaluates.

    A problem begins when its condition has persisted, is reported once, and ends when the condition has been false for
    as long as it had to be true; then it may be reported again. A metric that is missing, or not finite, neither
    supports nor contradicts a condition: that log point or evaluation does not count for it.

    blind_loss: loss/discriminator when D cannot tell real from fake (`gan_lab.losses.blind_loss`); None or 0 (there is
        no such level for Wasserstein): discriminator_won is not looked for.
    least_loss: loss/discriminator when D is always right and sure (`gan_lab.losses.least_loss`).
    patience_kimg: how long discriminator_won and vanishing_gradient must hold at every log point, in thousands of
        images. At batch 64, 100 are 1,562 D steps, and 128 the 2,000 steps within which healthy runs have been seen to
        recover; a run of less than about 500 kimg should be given a fifth of its budget.
    patience_log_points: how many log points in a row exploding_gradient must hold.
    patience_evaluations: how many evaluations in a row the other three must hold.
    num_modes: modes of the data; None: unknown, modes_covered is not judged.
    max_discriminator_gap: discriminator_overfitting is a discriminator/gap above this. Held-out images may differ from
        the others by themselves (other writers, say), and good runs on little data reach 0.6.
    metric, larger_is_better: the deciding metric's name, None for none, and its direction.
    late_factor: late_collapse is a deciding metric this many times worse than its best. A smaller-is-better one's best
        that is below its floor counts as the floor, as changes down there are noise. While the best is not above 0, a
        ratio to it means nothing and late_collapse is not judged.
    """

    blind_loss: float | None = None
    least_loss: float = 0.0
    patience_kimg: float = 100.0
    patience_log_points: int = 3
    patience_evaluations: int = 3
    num_modes: int | None = None
    max_discriminator_gap: float = 0.8
    metric: str | None = None
    larger_is_better: bool = False
    late_factor: float = 1.5

    def __post_init__(self) -> None:
        self._active: set[str] = set()  # without non_finite, which `_non_finite` tells
        # What contradicts the present state of a problem: how many times in a row, and the images seen at the first.
        self._against: dict[str, tuple[int, int]] = {}
        self._non_finite: set[str] = set()  # metrics whose last value was not finite
        self._norms: dict[str, list[float]] = {player: [] for player in PLAYERS}  # the first NUM_NORMS
        self._best: tuple[float, int] | None = None  # the deciding metric and images_seen

    @property
    def active(self) -> frozenset[str]:
        """The problems that have begun and not ended."""
        return frozenset(self._active | ({"non_finite"} if self._non_finite else set()))

    @property
    def suspected(self) -> frozenset[str]:
        """The problems whose condition holds but not yet for long enough."""
        return frozenset(set(self._against) - self._active)

    def on_metrics(self, images_seen: int, metrics: Mapping[str, float]) -> list[Finding]:
        """The problems that begin at this log point, in the order of PROBLEMS; reads LOG_METRICS."""
        found = [
            self._check_non_finite(images_seen, metrics, LOG_METRICS),
            self._check_discriminator_won(images_seen, metrics),
            *self._check_gradients(images_seen, metrics),
        ]
        return [finding for finding in found if finding is not None]

    def on_evaluation(self, images_seen: int, metrics: Mapping[str, float], *, share_of_budget: float) -> list[Finding]:
        """The problems that begin at this evaluation, in the order of PROBLEMS; reads EVALUATION_METRICS and `metric`.

        A metric that is undefined, such as a discriminator/gap where D does not rank real above fake, must be left out.
        """
        names = EVALUATION_METRICS if self.metric is None else (self.metric, *EVALUATION_METRICS)
        found = [
            self._check_non_finite(images_seen, metrics, names),
            self._check_mode_collapse(images_seen, metrics, share_of_budget),
            self._check_discriminator_overfitting(images_seen, metrics),
            self._check_late_collapse(images_seen, metrics),
        ]
        return [finding for finding in found if finding is not None]

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """The memory, without the settings: numbers, strings, and lists and dicts of them (JSON keeps it)."""
        return {
            "active": sorted(self._active),
            "against": {problem: list(evidence) for problem, evidence in sorted(self._against.items())},
            "non_finite": sorted(self._non_finite),
            "norms": {player: list(norms) for player, norms in self._norms.items()},
            "best": [] if self._best is None else list(self._best),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on with another Watch's memory."""
        self._active = set(state["active"])
        self._against = {problem: (count, first) for problem, (count, first) in state["against"].items()}
        self._non_finite = set(state["non_finite"])
        self._norms = {player: list(state["norms"][player]) for player in PLAYERS}
        self._best = (state["best"][0], state["best"][1]) if state["best"] else None

    # ------------------------------------------------------------------ persistence

    def _begins(self, problem: str, holds: bool | None, images_seen: int) -> int | None:
        """The images seen when the condition began to hold, if the problem begins now. None for `holds`: unknown."""
        if holds is None:
            return None
        if holds == (problem in self._active):
            self._against.pop(problem, None)
            return None
        count, first = self._against.get(problem, (0, images_seen))
        self._against[problem] = (count + 1, first)
        if problem in _TIMED:
            enough = images_seen - first >= self.patience_kimg * 1000
        elif problem == "exploding_gradient":
            enough = count + 1 >= self.patience_log_points
        else:
            enough = count + 1 >= self.patience_evaluations
        if not enough:
            return None
        del self._against[problem]
        self._active ^= {problem}
        return first if holds else None

    # ------------------------------------------------------------------ rules

    def _check_non_finite(
        self, images_seen: int, metrics: Mapping[str, float], names: tuple[str, ...]
    ) -> Finding | None:
        before = bool(self._non_finite)
        bad = {name: metrics[name] for name in names if name in metrics and not math.isfinite(metrics[name])}
        self._non_finite -= set(metrics)
        self._non_finite |= set(bad)
        if before or not bad:
            return None
        seen = ", ".join(f"{name} is {float(value)}" for name, value in bad.items())
        return Finding(
            "non_finite",
            images_seen,
            f"At {images_seen:,} images {seen}: training has diverged, and numbers after this mean nothing. "
            "Lower optimizer.lr (or optimizer.generator.lr and optimizer.discriminator.lr apart), set "
            "optimizer.clip_norm.generator=1 and optimizer.clip_norm.discriminator=1, or try another loss=...",
        )

    def _check_discriminator_won(self, images_seen: int, metrics: Mapping[str, float]) -> Finding | None:
        if self.blind_loss is None or self.blind_loss <= 0:
            return None
        loss, accuracy = _value(metrics, "loss/discriminator"), _value(metrics, "discriminator/accuracy")
        level = self.least_loss + WON_LOSS_SHARE * (self.blind_loss - self.least_loss)
        holds = _both(
            None if loss is None else loss < level,
            None if accuracy is None else accuracy > WON_ACCURACY,
        )
        first = self._begins("discriminator_won", holds, images_seen)
        if first is None:
            return None
        return Finding(
            "discriminator_won",
            images_seen,
            f"From {first:,} to {images_seen:,} images loss/discriminator has stayed below "
            f"{level:.3g} (now {loss:.3g}; {self.blind_loss:.3g} where D cannot tell, {self.least_loss:.3g} at best), "
            f"and discriminator/accuracy above {WON_ACCURACY:.4g} (now {accuracy:.4g}): the discriminator has "
            "won, and the generator learns next to nothing from it. Try penalty=r1, a lower "
            "optimizer.discriminator.lr, or another loss=... such as hinge or wgan_gp.",
        )

    def _check_gradients(self, images_seen: int, metrics: Mapping[str, float]) -> list[Finding | None]:
        vanishing: bool | None = None
        exploding: dict[str, str] = {}  # what is said of each player whose norm is too large
        known = False
        vanishing_against = ""
        for player in PLAYERS:
            norm = _value(metrics, f"gradient_norm/{player}")
            if norm is None:
                continue
            known = True
            norms = self._norms[player]
            usual = median(norms) if norms else None
            abnormal = False
            if player == "generator":
                vanishing = norm < VANISHING_NORM
                if usual is not None and len(norms) >= NUM_NORMS:
                    # A small gradient is no failure where D cannot tell the samples apart: then G has arrived.
                    told_apart = metrics.get("discriminator/accuracy", 1.0) > VANISHING_ACCURACY
                    vanishing = vanishing or (norm < VANISHING_SHARE * usual and told_apart)
                    vanishing_against = f", against {usual:.2g} at the beginning"
                abnormal = vanishing
            if usual is not None and norm > EXPLODING_NORM and norm > EXPLODING_FACTOR * usual:
                exploding[player] = f"gradient_norm/{player} is {norm:,.4g}, {usual:.2g} at the beginning"
                abnormal = True
            # Else a failure that begins early would become the norm that it is measured by.
            if not abnormal and len(norms) < NUM_NORMS:
                norms.append(norm)
        return [
            self._vanishing(images_seen, metrics, vanishing, vanishing_against),
            self._exploding(images_seen, exploding if known else None),
        ]

    def _vanishing(
        self, images_seen: int, metrics: Mapping[str, float], holds: bool | None, against: str
    ) -> Finding | None:
        first = self._begins("vanishing_gradient", holds, images_seen)
        if first is None:
            return None
        return Finding(
            "vanishing_gradient",
            images_seen,
            f"From {first:,} to {images_seen:,} images the generator's gradient has all but vanished: "
            f"gradient_norm/generator is {metrics['gradient_norm/generator']:.2g}{against}, so the generator no longer "
            "learns. Try another loss=... (vanilla instead of minimax, hinge or wgan_gp), penalty=r1, or a lower "
            "optimizer.discriminator.lr.",
        )

    def _exploding(self, images_seen: int, exploding: dict[str, str] | None) -> Finding | None:
        first = self._begins("exploding_gradient", None if exploding is None else bool(exploding), images_seen)
        if first is None or not exploding:
            return None
        clip = " and ".join(f"optimizer.clip_norm.{player}=1" for player in exploding)
        lower = " and ".join(f"optimizer.{player}.lr" for player in exploding)
        return Finding(
            "exploding_gradient",
            images_seen,
            f"{'; '.join(exploding.values())}, and gradients have been as large since {first:,} images "
            f"({self.patience_log_points} log points in a row): the steps have become wild, and NaN may be next. Set "
            f"{clip}, lower {lower}, or smooth the discriminator with penalty=r1.",
        )

    def _check_mode_collapse(
        self, images_seen: int, metrics: Mapping[str, float], share_of_budget: float
    ) -> Finding | None:
        if share_of_budget < COLLAPSE_SHARE_OF_BUDGET:
            return None
        diversity, floor = _value(metrics, "diversity"), _value(metrics, "diversity/floor")
        modes = _value(metrics, "modes_covered")
        recall, precision = _value(metrics, "recall"), _value(metrics, "precision")
        few: list[tuple[bool | None, str]] = []  # each sign, None where unknown, and what is said of it
        narrow = _both(
            None if recall is None else recall < MIN_RECALL,
            None if precision is None else precision > MIN_PRECISION,
        )
        if diversity is not None and floor is not None:
            words = f"diversity is {diversity:.3g}, less than {MIN_DIVERSITY_SHARE:g} of diversity/floor, {floor:.3g}"
            few.append((diversity < MIN_DIVERSITY_SHARE * floor, words))
        few.append((narrow, f"recall is {_text(recall)} while precision is {_text(precision)}"))
        if modes is not None and self.num_modes is not None:
            words = f"modes_covered is {modes:g} of {self.num_modes}"
            few.append((modes < MIN_MODES_SHARE * self.num_modes, words))
        known = [sign for sign, _ in few if sign is not None]
        holds = any(known) if known else None
        first = self._begins("mode_collapse", holds, images_seen)
        if first is None:
            return None
        return Finding(
            "mode_collapse",
            images_seen,
            f"At {images_seen:,} images {' and '.join(words for sign, words in few if sign)}, and it has been so at "
            f"{self.patience_evaluations} evaluations in a row: the generator makes few kinds of samples. Try "
            "penalty=r1, or loss=relativistic with penalty=r1_r2, or a lower optimizer.generator.lr; another seed "
            "may also do.",
        )

    def _check_discriminator_overfitting(self, images_seen: int, metrics: Mapping[str, float]) -> Finding | None:
        gap = _value(metrics, "discriminator/gap")
        holds = None if gap is None else gap > self.max_discriminator_gap
        first = self._begins("discriminator_overfitting", holds, images_seen)
        if first is None:
            return None
        return Finding(
            "discriminator_overfitting",
            images_seen,
            f"discriminator/gap is {gap:.2g} (0: held-out reals are judged like train reals, 1: like fakes) and has "
            f"been above {self.max_discriminator_gap:g} at {self.patience_evaluations} evaluations in a row since "
            f"{first:,} images: the discriminator knows its training set by heart. Try more data, "
            "model.discriminator.dropout=0.3 (model=mlp), a larger weight of penalty=r1, or a lower "
            "optimizer.discriminator.lr; the best model so far is in checkpoints/best.ckpt.",
        )

    def _check_late_collapse(self, images_seen: int, metrics: Mapping[str, float]) -> Finding | None:
        value = None if self.metric is None else _value(metrics, self.metric)
        if value is None:
            return None
        if self._best is None or (value > self._best[0] if self.larger_is_better else value < self._best[0]):
            self._best = (value, images_seen)
        best, best_images = self._best
        holds: bool | None
        if self.larger_is_better:
            holds = value < best / self.late_factor if best > 0 else None
        else:
            reference = max(best, _value(metrics, f"{self.metric}/floor") or 0.0)
            holds = value > self.late_factor * reference if reference > 0 else None
        first = self._begins("late_collapse", holds, images_seen)
        if first is None:
            return None
        return Finding(
            "late_collapse",
            images_seen,
            f"{self.metric} is {value:.4g} at {images_seen:,} images, more than {self.late_factor:g} times worse than "
            f"its best, {best:.4g} at {best_images:,} images, for {self.patience_evaluations} evaluations in a row: "
            "training has got worse since then. checkpoints/best.ckpt holds that best (`gan-lab sample weights=best`); "
            "next time try a lower optimizer.lr, optimizer.schedule=linear, penalty=r1, or a smaller budget.kimg.",
        )


def _value(metrics: Mapping[str, float], name: str) -> float | None:
    """The metric as a plain number; None where it is missing or not finite."""
    return float(metrics[name]) if name in metrics and math.isfinite(metrics[name]) else None


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _both(one: bool | None, other: bool | None) -> bool | None:
    """Whether both hold, where None is unknown: one that is false decides."""
    if one is False or other is False:
        return False
    return None if one is None or other is None else True
