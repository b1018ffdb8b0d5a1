"""GAN: the LightningModule that holds both networks, their optimizers, the counters and the averaged generator."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from gan_lab.compiled import Calls, Compile, calls_of
from gan_lab.ema import Average, ema_decay
from gan_lab.losses import AdversarialLoss
from gan_lab.models.layers import has_batch_norm
from gan_lab.optimizers import Schedule, lr_factor
from gan_lab.penalties import Discriminator, Passes, Uniform
from gan_lab.player import Player
from gan_lab.procedures.noise_to_data import alternating
from gan_lab.streams import LatentDistribution, Streams

Penalty = Callable[[Discriminator, Tensor, Tensor, Uniform], Tensor]
OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


class Optimization(NamedTuple):
    """How the two players learn. clip norms: largest gradient norm, None for no limit."""

    generator: OptimizerFactory
    discriminator: OptimizerFactory
    generator_clip_norm: float | None = None
    discriminator_clip_norm: float | None = None
    schedule: Schedule = "constant"
    accumulate: int = 1


class GAN(LightningModule):
    """Generator against discriminator, in manual optimization.

    One `training_step` is one cycle: `num_discriminator_steps` updates of D and one of G. Three counters, none of them
    Lightning's: `images_seen` (real images shown to D), `d_steps` and `g_steps`. All randomness is a function of `seed`
    and a counter. `batch_size` and every number of images are over all processes together.
    """

    def __init__(
        self,
        *,
        generator: nn.Module,
        discriminator: nn.Module,
        latent_dim: int,
        latent_distribution: LatentDistribution = "normal",
        adversarial_loss: AdversarialLoss,
        optimization: Optimization,
        penalties: Sequence[Penalty] = (),
        weight_clip: float | None = None,
        num_discriminator_steps: int = 1,
        batch_size: int,
        budget_images: int,
        budget_seconds: float | None = None,
        ema_half_life_images: float = 10_000.0,
        ema_rampup: float | None = 0.05,
        seed: int = 0,
        autocast_dtype: torch.dtype | None = None,
        compile: Compile = "none",
    ):
        super().__init__()
        self.automatic_optimization = False
        self.generator = generator
        self.discriminator = discriminator
        self.generator_ema = copy.deepcopy(generator).requires_grad_(False)
        self.latent_dim = latent_dim
        self.latent_distribution: LatentDistribution = latent_distribution
        self.adversarial_loss = adversarial_loss
        self.optimization = optimization
        self.accumulate = optimization.accumulate
        self.penalties = tuple(penalties)
        self.weight_clip = weight_clip
        self.num_discriminator_steps = num_discriminator_steps
        self.batch_size = batch_size
        self.budget_images = budget_images
        self.budget_seconds = budget_seconds  # of training time, over all sittings
        self.ema_half_life_images = ema_half_life_images
        self.ema_rampup = ema_rampup
        self.seed = seed
        self.autocast_dtype = autocast_dtype
        self.compile_how = compile

        self.images_seen = self.d_steps = self.g_steps = 0
        self.images_before = 0  # images_seen when the current cycle began
        self.stop_asked = False  # by a callback of this process; `Stop` makes all processes agree
        self.out_of_time = False  # set when budget_seconds are used up, by all processes after the same cycle
        self.wall_seconds = 0.0  # training time, over all sittings
        self.setup_seconds = 0.0  # of this sitting, spent on what later runs will not do again: no training time
        self.latest_metrics: dict[str, float] = {}  # the last value of each metric that was written
        self.published: dict[str, float] = {}  # the metrics that were written after the last cycle
        self.lr_scale = 1.0  # what roll-backs have multiplied the learning rates by
        self.measure_gradients = False  # set for the cycles at whose end metrics are written
        self.gradient_norms: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        # BatchNorm must see real and fake apart; otherwise one pass over both is the same and faster.
        self._one_pass = not has_batch_norm(discriminator)
        self.streams = Streams(seed)
        self.rank, self.world_size = 0, 1
        self.state_to_load: dict[str, Any] | None = None  # a checkpoint's; waits for the optimizers
        self.generator_player: Player  # this and the next three are made when training starts
        self.discriminator_player: Player
        self.average: Average
        self.calls: Calls

    # ------------------------------------------------------------------ Lightning's hooks

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        self.streams = Streams(self.seed, self.device)
        self.rank, self.world_size = self.trainer.global_rank, self.trainer.world_size
        how = self.optimization
        generator_optimizer = how.generator(list(self.generator.parameters()))
        discriminator_optimizer = how.discriminator(list(self.discriminator.parameters()))
        self.generator_player = Player("generator", self.generator, generator_optimizer, how.generator_clip_norm)
        self.discriminator_player = Player(
            "discriminator", self.discriminator, discriminator_optimizer, how.discriminator_clip_norm
        )
        self.average = Average(self.generator_ema, self.generator)
        self.calls = calls_of(self.generator, self.discriminator, self.compile_how, bool(self.penalties))
        if self.state_to_load is not None:
            self._load_progress(self.state_to_load)
            self.state_to_load = None
        return [generator_optimizer, discriminator_optimizer]

    def training_step(self, real: Tensor, batch_idx: int) -> None:
        self.images_before = self.images_seen
        self.published = {}
        self.streams.seed_layers(self.images_seen * self.world_size + self.rank)
        self.calls.begin_cycle()
        alternating(self, real)
        images = self.images_seen - self.images_before
        decay = ema_decay(images, self.images_seen, self.ema_half_life_images, self.ema_rampup)
        self.average.update(decay)

    # ------------------------------------------------------------------ what a procedure uses

    @property
    def local_batch_size(self) -> int:
        """Samples of one batch that this process handles."""
        return self.batch_size // self.world_size

    def _local(self, whole: Tensor) -> Tensor:
        """This process's rows of something drawn for the whole batch: draws do not depend on how many there are."""
        start = self.rank * self.local_batch_size
        return whole[start : start + self.local_batch_size]

    def parts(self) -> Iterator[slice]:
        """The rows of the micro-batches of one local batch."""
        size = self.local_batch_size // self.accumulate
        for start in range(0, self.local_batch_size, size):
            yield slice(start, start + size)

    def draw_latents(self, stream: str, counter: int) -> Tensor:
        """This process's latents (local batch, latent_dim) of a stream's draw."""
        shape = (self.batch_size, self.latent_dim)
        return self._local(self.streams.latents(self.latent_distribution, shape, stream, counter))

    def autocast(self) -> torch.autocast:
        """Lower precision for the networks' passes; losses, penalties and averages stay in float32."""
        return torch.autocast(self.device.type, self.autocast_dtype, enabled=self.autocast_dtype is not None)

    def generate(self, latents: Tensor) -> Tensor:
        """Fakes in float32 from the generator as it is being trained."""
        with self.autocast():
            return self.calls.generate(latents).float()

    def judge(self, samples: Tensor) -> Tensor:
        """D's logits (N,) in float32, in G's step: gradients reach the samples, not D's weights."""
        with self.autocast():
            return self.calls.judge_frozen(samples).float()

    def passes(self) -> Passes:
        """D's logits in float32 for the batches of one update of D: each goes through D once."""

        def judge(samples: Tensor) -> Tensor:
            with self.autocast():
                return self.calls.judge(samples).float()

        return Passes(judge, together=self._one_pass)

    def penalty(self, passes: Passes, real: Tensor, fake: Tensor, part: slice) -> Tensor | None:
        """The sum of the penalties' means over the micro-batch; None where there is none.

        In float32: where the networks pass in lower precision, penalties have passes of their own.
        """
        if not self.penalties:
            return None

        def uniform(shape: tuple[int, ...]) -> Tensor:
            whole = self.streams.uniform((self.batch_size, *shape[1:]), "penalty", self.d_steps)
            return self._local(whole)[part]

        discriminator = passes if self.autocast_dtype is None else Passes(self.discriminator, together=self._one_pass)
        for batch in (real, fake):
            batch.requires_grad_()
        values = [penalty(discriminator, real, fake, uniform).mean() for penalty in self.penalties]
        return torch.stack(values).sum()

    def lr_factor(self) -> float:
        return self.lr_scale * lr_factor(self.optimization.schedule, self.images_seen / self.budget_images)

    # ------------------------------------------------------------------ what was recorded

    def record(self, name: str, value: Tensor) -> None:
        """Adds a value to the mean that the next log point writes; stays on the device."""
        value = value.detach()
        if name in self._sums:
            self._sums[name] += value
            self._counts[name] += 1
        else:
            self._sums[name], self._counts[name] = value.clone(), 1

    def take_metrics(self) -> dict[str, float]:
        """Means since the last call, over all processes, and the last gradient norms; waits for the device."""
        self.generator_player.check_finite(self)
        self.discriminator_player.check_finite(self)
        names = list(self._sums)
        means = torch.stack([self._sums[name].double() / self._counts[name] for name in names])
        if self.world_size > 1:
            torch.distributed.all_reduce(means)
            means /= self.world_size
        metrics = dict(zip(names, means.tolist(), strict=True))
        metrics |= {name: float(norm) for name, norm in self.gradient_norms.items()}
        self._sums, self._counts, self.gradient_norms = {}, {}, {}
        return metrics

    def publish(self, loggers: Sequence[Any], metrics: dict[str, float], card: dict[str, Any] | None = None) -> None:
        """Hands metrics to every logger, at the images seen; `card` says how they were measured."""
        self.latest_metrics |= metrics
        self.published |= metrics
        for logger in loggers:
            logger.log_metrics(metrics, step=self.images_seen)
            if card is not None and hasattr(logger, "log_card"):
                logger.log_card(card, step=self.images_seen)

    def due(self, every_images: float | None) -> bool:
        """Whether the cycle just done crossed a multiple of `every_images`, or was the run's last."""
        if self.finished:
            return True
        if every_images is None:
            return False
        return int(self.images_before // every_images) != int(self.images_seen // every_images)

    @property
    def finished(self) -> bool:
        """Whether the budget is used up."""
        return self.images_seen >= self.budget_images or self.out_of_time

    @property
    def share_of_budget(self) -> float:
        """How much of the budget is used, 0 to 1: of the images or of the time, whichever is nearer its end."""
        shares = [self.images_seen / self.budget_images]
        if self.budget_seconds is not None:
            shares.append(self.wall_seconds / self.budget_seconds)
        return min(max(shares), 1.0)

    # ------------------------------------------------------------------ state

    def state(self) -> dict[str, Any]:
        """Everything that the next cycle depends on: tensors, numbers and strings only."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "generator_ema": self.generator_ema.state_dict(),
            "optimizers": {
                "generator": self.generator_player.optimizer.state_dict(),
                "discriminator": self.discriminator_player.optimizer.state_dict(),
            },
            "counters": {"images_seen": self.images_seen, "d_steps": self.d_steps, "g_steps": self.g_steps},
            "wall_seconds": self.wall_seconds,
            "recorded": {"sums": self._sums, "counts": self._counts},
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts a state back, the optimizers' part once they exist; RuntimeError where shapes or names differ."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.generator_ema.load_state_dict(state["generator_ema"])
        self.wall_seconds = state["wall_seconds"]
        self.out_of_time = self.budget_seconds is not None and self.wall_seconds >= self.budget_seconds
        counters = state["counters"]
        self.images_seen = self.images_before = counters["images_seen"]
        self.d_steps, self.g_steps = counters["d_steps"], counters["g_steps"]
        self.state_to_load = state

    def _load_progress(self, state: dict[str, Any]) -> None:
        """Puts back what lives on the training device, once the optimizers exist."""
        for name, player in (("generator", self.generator_player), ("discriminator", self.discriminator_player)):
            new_options = [
                {key: value for key, value in group.items() if key != "params"}
                for group in player.optimizer.param_groups
            ]
            player.optimizer.load_state_dict(state["optimizers"][name])
            # The configuration decides the options, so that `resume optimizer.lr=...` takes effect.
            for group, options in zip(player.optimizer.param_groups, new_options, strict=True):
                group.update(options)
        self._sums = {name: value.to(self.device) for name, value in state["recorded"]["sums"].items()}
        self._counts = dict(state["recorded"]["counts"])
