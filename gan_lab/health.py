"""Training health: rules that turn the metrics of a run into diagnoses in plain words.

Only the standard library is imported, so that the rules can also be applied to a log file where torch is missing.
"""

import math
from collections.abc import Mapping
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
EVALUATION_METRICS = ("recall", "precision", "coverage", "diversity_ratio", "modes_covered", "discriminator_gap")
"""What `Watch.on_evaluation` looks at beside the deciding metric; everything else is ignored."""

# These must hold for a number of images; the others for a number of log points or evaluations.
_TIMED = frozenset({"discriminator_won", "vanishing_gradient"})


class Finding(NamedTuple):
    """A problem that has begun: one of PROBLEMS, when it was found, and what was seen, what it means, what to try."""

    problem: str
    images_seen: int
    message: str


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
    won_loss_share, won_accuracy: discriminator_won is loss/discriminator above least_loss by less than this share of
        what blind_loss is, and discriminator/accuracy above this.
    num_norms: a player's gradient norms of the first so many log points are its reference, by their median.
    vanishing_share, vanishing_norm, vanishing_accuracy: vanishing_gradient is a norm of G below the first, as a share
        of its reference, while D is right more often than the third; or below the second in any case.
    exploding_norm, exploding_factor: exploding_gradient is a norm above both exploding_norm and this many times its
        player's reference.
    collapse_share_of_budget: mode_collapse is not judged before this share of the budget is used.
    min_diversity_ratio, min_recall, min_precision, min_modes_share: mode_collapse is a diversity_ratio below the first,
        or a recall below the second with a precision above the third, or fewer modes than this share of num_modes.
    num_modes: modes of the data; None: unknown, modes_covered is not judged.
    max_discriminator_gap: discriminator_overfitting is a discriminator_gap above this. Held-out images may differ from
        the others by themselves (other writers, say), and good runs on little data reach 0.6.
    metric, larger_is_better: the deciding metric's name, None for none, and its direction.
    late_factor: late_collapse is a deciding metric this many times worse than its best.
    metric_floor: a smaller-is-better metric's value for real against real samples. A best below it counts as the
        floor, as changes down there are noise. While the best is not above 0, a ratio to it means nothing and
        late_collapse is not judged.
    """

    def __init__(
        self,
        *,
        blind_loss: float | None = None,
        least_loss: float = 0.0,
        patience_kimg: float = 100.0,
        patience_log_points: int = 3,
        patience_evaluations: int = 3,
        won_loss_share: float = 0.01,
        won_accuracy: float = 0.99,
        vanishing_share: float = 1e-3,
        vanishing_norm: float = 1e-9,
        vanishing_accuracy: float = 0.9,
        num_norms: int = 10,
        exploding_norm: float = 100.0,
        exploding_factor: float = 100.0,
        collapse_share_of_budget: float = 0.2,
        min_diversity_ratio: float = 0.5,
        min_recall: float = 0.02,
        min_precision: float = 0.1,
        min_modes_share: float = 0.5,
        num_modes: int | None = None,
        max_discriminator_gap: float = 0.8,
        metric: str | None = None,
        larger_is_better: bool = False,
        late_factor: float = 1.5,
        metric_floor: float = 0.0,
    ):
        self.blind_loss = blind_loss
        self.least_loss = least_loss
        self.patience_kimg = patience_kimg
        self.patience_log_points = patience_log_points
        self.patience_evaluations = patience_evaluations
        self.won_loss_share = won_loss_share
        self.won_accuracy = won_accuracy
        self.vanishing_share = vanishing_share
        self.vanishing_norm = vanishing_norm
        self.vanishing_accuracy = vanishing_accuracy
        self.num_norms = num_norms
        self.exploding_norm = exploding_norm
        self.exploding_factor = exploding_factor
        self.collapse_share_of_budget = collapse_share_of_budget
        self.min_diversity_ratio = min_diversity_ratio
        self.min_recall = min_recall
        self.min_precision = min_precision
        self.min_modes_share = min_modes_share
        self.num_modes = num_modes
        self.max_discriminator_gap = max_discriminator_gap
        self.metric = metric
        self.larger_is_better = larger_is_better
        self.late_factor = late_factor
        self.metric_floor = metric_floor

        self._active: set[str] = set()  # without non_finite, which `_non_finite` tells
        # What contradicts the present state of a problem: how many times in a row, and the images seen at the first.
        self._against: dict[str, tuple[int, int]] = {}
        self._non_finite: set[str] = set()  # metrics whose last value was not finite
        self._norms: dict[str, list[float]] = {player: [] for player in PLAYERS}  # the first num_norms
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

        A metric that is undefined, such as a discriminator_gap where D does not rank real above fake, must be left out.
        """
        names = EVALUATION_METRICS if self.metric is None else (self.metric, *EVALUATION_METRICS)
        found = [
            self._check_non_finite(images_seen, metrics, names),
            self._check_mode_collapse(images_seen, metrics, share_of_budget),
            self._check_discriminator_overfitting(images_seen, metrics),
            self._check_late_collapse(images_seen, metrics),
        ]
        return [finding for finding in found if finding is not None]

    def forget_best(self) -> None:
        """Begins anew with the deciding metric, for when its values cannot be compared with the earlier ones."""
        self._best = None
        self._active.discard("late_collapse")
        self._against.pop("late_collapse", None)

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
        level = self.least_loss + self.won_loss_share * (self.blind_loss - self.least_loss)
        holds = _both(
            None if loss is None else loss < level,
            None if accuracy is None else accuracy > self.won_accuracy,
        )
        first = self._begins("discriminator_won", holds, images_seen)
        if first is None:
            return None
        return Finding(
            "discriminator_won",
            images_seen,
            f"From {first:,} to {images_seen:,} images loss/discriminator has stayed below "
            f"{level:.3g} (now {loss:.3g}; {self.blind_loss:.3g} where D cannot tell, {self.least_loss:.3g} at best), "
            f"and discriminator/accuracy above {self.won_accuracy:.4g} (now {accuracy:.4g}): the discriminator has "
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
                vanishing = norm < self.vanishing_norm
                if usual is not None and len(norms) >= self.num_norms:
                    # A small gradient is no failure where D cannot tell the samples apart: then G has arrived.
                    told_apart = metrics.get("discriminator/accuracy", 1.0) > self.vanishing_accuracy
                    vanishing = vanishing or (norm < self.vanishing_share * usual and told_apart)
                    vanishing_against = f", against {usual:.2g} at the beginning"
                abnormal = vanishing
            if usual is not None and norm > self.exploding_norm and norm > self.exploding_factor * usual:
                exploding[player] = f"gradient_norm/{player} is {norm:,.4g}, {usual:.2g} at the beginning"
                abnormal = True
            # Else a failure that begins early would become the norm that it is measured by.
            if not abnormal and len(norms) < self.num_norms:
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
        if share_of_budget < self.collapse_share_of_budget:
            return None
        diversity, modes = _value(metrics, "diversity_ratio"), _value(metrics, "modes_covered")
        recall, precision = _value(metrics, "recall"), _value(metrics, "precision")
        few: list[tuple[bool | None, str]] = []  # each sign, None where unknown, and what is said of it
        narrow = _both(
            None if recall is None else recall < self.min_recall,
            None if precision is None else precision > self.min_precision,
        )
        if diversity is not None:
            words = f"fakes are only {diversity:.2g} times as diverse as the data (diversity_ratio)"
            few.append((diversity < self.min_diversity_ratio, words))
        few.append((narrow, f"recall is {_text(recall)} while precision is {_text(precision)}"))
        if modes is not None and self.num_modes is not None:
            words = f"modes_covered is {modes:g} of {self.num_modes}"
            few.append((modes < self.min_modes_share * self.num_modes, words))
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
        gap = _value(metrics, "discriminator_gap")
        holds = None if gap is None else gap > self.max_discriminator_gap
        first = self._begins("discriminator_overfitting", holds, images_seen)
        if first is None:
            return None
        return Finding(
            "discriminator_overfitting",
            images_seen,
            f"discriminator_gap is {gap:.2g} (0: held-out reals are judged like train reals, 1: like fakes) and has "
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
            reference = max(best, self.metric_floor)
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
