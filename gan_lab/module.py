"""GAN: the LightningModule that holds both networks, their optimizers, the counters and the averaged generator."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from gan_lab.compiled import Calls, Compile, calls_of
from gan_lab.conditioning import Conditioning
from gan_lab.conversions import Conversions
from gan_lab.data.batches import Batch, Told
from gan_lab.ema import LARGEST_DECAY, Average, ema_decay
from gan_lab.losses import AdversarialLoss
from gan_lab.means import Means
from gan_lab.models.layers import mixes_samples
from gan_lab.optimizers import Schedule, lr_factor
from gan_lab.penalties import Discriminator, Passes, Uniform
from gan_lab.player import Player
from gan_lab.procedures.noise_to_data import alternating
from gan_lab.sampling import LatentSpace, evaluation_mode
from gan_lab.schedules import Schedules
from gan_lab.streams import LatentDistribution, Streams

Penalty = Callable[[Discriminator, Tensor, Tensor, Uniform], Tensor]
OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Transform = Callable[[Tensor], Tensor]


def as_it_is(samples: Tensor) -> Tensor:
    return samples


class Augment(Protocol):
    """What D sees of real and fake alike; see `gan_lab.augment`."""

    state: dict[str, Tensor]

    def __call__(self, samples: Tensor, generator: torch.Generator, images_seen: int) -> Tensor: ...

    def observe(self, real_sign: Tensor, num_images: int) -> None: ...


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

    label_shares: how often each class occurs in the data, (num_classes,); None where there are no labels. encoder: what
    `conditioning` finds latents with; learns with G. augment: what D sees of real and fake alike. penalties: by the
    keys that their states have in checkpoints. packing: D judges so many samples at once, side by side in their
    channels (Lin et al. 2018, PacGAN). warmup_images: so long D learns alone. share_fakes: G's step goes on with the
    fakes of D's last one, instead of drawing its own.
    """

    def __init__(
        self,
        *,
        generator: nn.Module,
        discriminator: nn.Module,
        latent_dim: int,
        latent_distribution: LatentDistribution = "normal",
        conditioning: Conditioning | None = None,
        label_shares: Tensor | None = None,
        encoder: nn.Module | None = None,
        adversarial_loss: AdversarialLoss,
        optimization: Optimization,
        penalties: Mapping[str, Penalty] | None = None,
        augment: Augment | None = None,
        packing: int = 1,
        warmup_images: int = 0,
        share_fakes: bool = False,
        schedules: Schedules | None = None,
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
        self.encoder = encoder
        self.conditioning = Conditioning() if conditioning is None else conditioning
        self.latent_space = LatentSpace(latent_dim, latent_distribution, self.conditioning, label_shares)
        self.adversarial_loss = adversarial_loss
        self.optimization = optimization
        self.accumulate = optimization.accumulate
        self.penalties = dict(penalties or {})
        self.augment = augment
        # The states of loss, penalties and augmentation, by name; their owners keep these very dictionaries.
        states = {"loss": adversarial_loss.state, "augment": getattr(augment, "state", None)}
        states |= {key: getattr(penalty, "state", None) for key, penalty in self.penalties.items()}
        self.memories: dict[str, dict[str, Tensor]] = {name: state for name, state in states.items() if state}
        self.packing = packing
        self.warmup_images = warmup_images
        self.share_fakes = share_fakes
        self.schedules = Schedules() if schedules is None else schedules
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
        self.pending_decay = 1.0  # of the average, since it last took weights in
        self.scheduled = self.schedules.at(0, budget_images)
        self.stop_asked = False  # by a callback of this process; `Stop` makes all processes agree
        self.out_of_time = False  # set when budget_seconds are used up, by all processes after the same cycle
        self.wall_seconds = 0.0  # training time, over all sittings
        self.setup_seconds = 0.0  # of this sitting, spent on what later runs will not do again: no training time
        self.latest_metrics: dict[str, float] = {}  # the last value of each metric that was written
        self.published: dict[str, float] = {}  # the metrics that were written after the last cycle
        self.lr_scale = 1.0  # what roll-backs have multiplied the learning rates by
        self.measure_gradients = False  # set for the cycles at whose end metrics are written
        self.gradient_norms: dict[str, Tensor] = {}
        self._means = Means()
        self._judged: list[Tensor] = []
        # BatchNorm must see real and fake apart; otherwise one pass over both is the same and faster.
        self._one_pass = not mixes_samples(discriminator)
        self.streams = Streams(seed)
        self.rank, self.world_size = 0, 1
        self.state_to_load: dict[str, Any] | None = None  # a checkpoint's; waits for the optimizers
        self.told: Told | None = None  # samples whose classes D is told in batches of their own; set before training
        self.conversions: Conversions  # this and the next four are made when training starts
        self.generator_player: Player
        self.discriminator_player: Player
        self.average: Average
        self.calls: Calls

    # ------------------------------------------------------------------ Lightning's hooks

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        self.conversions = Conversions()
        self.streams = Streams(self.seed, self.device)
        self.rank, self.world_size = self.trainer.global_rank, self.trainer.world_size
        how = self.optimization
        learn_with_generator = [self.generator] if self.encoder is None else [self.generator, self.encoder]
        generator_optimizer = how.generator([one for module in learn_with_generator for one in module.parameters()])
        discriminator_optimizer = how.discriminator(list(self.discriminator.parameters()))
        self.generator_player = Player("generator", learn_with_generator, generator_optimizer, how.generator_clip_norm)
        self.discriminator_player = Player(
            "discriminator", [self.discriminator], discriminator_optimizer, how.discriminator_clip_norm
        )
        for memory in self.memories.values():
            memory.update({name: value.to(self.device) for name, value in memory.items()})
        if self.told is not None:
            self.told.to(self.device)
        self.average = Average(self.generator_ema, self.generator)
        self.calls = calls_of(self.generator, self.discriminator, self.compile_how, bool(self.penalties))
        if self.state_to_load is not None:
            self._load_progress(self.state_to_load)
            self.state_to_load = None
        return [generator_optimizer, discriminator_optimizer]

    def training_step(self, batch: Batch | Iterator[Batch], batch_idx: int) -> None:
        """One cycle; batch: the reals of all its updates of D, or (reals, labels), or an iterator's next one."""
        if isinstance(batch, Iterator):
            batch = next(batch)
        real, labels = (batch, None) if isinstance(batch, Tensor) else batch
        self.images_before = self.images_seen
        self.published = {}
        self.streams.seed_layers(self.images_seen * self.world_size + self.rank)
        self.calls.begin_cycle()
        self.scheduled = self.schedules.at(self.images_seen, self.budget_images)
        with self.conversions.in_use(self.device.type, self.autocast_dtype is not None):
            alternating(self, real, labels)
        half_life = self.ema_half_life_images * self.scheduled.half_life_factor
        images = self.images_seen - self.images_before
        self.pending_decay *= ema_decay(images, self.images_seen, half_life, self.ema_rampup)
        if self.pending_decay <= LARGEST_DECAY:
            self.average.update(self.pending_decay)
            self.pending_decay = 1.0

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

    def draw_latents(self, stream: str, counter: int, labels: Tensor | None = None) -> Tensor:
        """This process's inputs of G (local batch, latent_dim + num_codes) of a stream's draw.

        labels: of the reals that the fakes are held against. Fakes get the same, so both have one distribution, and a
        pair of real and fake one label.
        """
        noise = self._local(self.latent_space.noise(self.streams, self.batch_size, stream, counter))

        def uniform(shape: tuple[int, ...]) -> Tensor:
            return self._local(self.streams.uniform((self.batch_size, *shape[1:]), f"{stream}/codes", counter))

        return self.latent_space.with_codes(noise, labels, uniform)

    def codes_of(self, latents: Tensor) -> Tensor:
        """(N, num_codes): what of G's input says what is wanted."""
        return latents[:, self.latent_space.dim :]

    def autocast(self) -> AbstractContextManager[None]:
        """Lower precision for the networks' passes, and so for the gradients that penalties take through them; losses,
        the penalties' norms, weights and averages stay in float32."""
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    def generate(self, latents: Tensor) -> Tensor:
        """Fakes in float32 from the generator as it is being trained."""
        with self.autocast():
            return self.calls.generate(latents).float()

    def pack(self, samples: Tensor) -> Tensor:
        """Samples (N, C, ...) as D gets them: (N / packing, packing * C, ...)."""
        if self.packing == 1:
            return samples
        return samples.reshape(-1, self.packing * samples.shape[1], *samples.shape[2:])

    def augmentation(self, player: str, counter: int) -> Transform:
        """What is done to all samples that D sees in one update of a player; packed samples are augmented apart."""
        if self.augment is None:
            return as_it_is
        augment, images_seen = self.augment, self.images_seen
        counter = counter * self.world_size + self.rank
        generator = self.streams.fresh_generator(f"augment/{player}", counter)

        def transform(samples: Tensor) -> Tensor:
            single = samples.reshape(-1, samples.shape[1] // self.packing, *samples.shape[2:])
            return augment(single, generator, images_seen).reshape(samples.shape)

        return transform

    def _judge(self, judge: Transform, samples: Tensor, codes: Tensor | None, augmented: Transform) -> Tensor:
        return judge(self.conditioning.discriminator_input(augmented(samples), _for_each(codes, samples)))

    def read(self, outputs: Tensor, codes: Tensor | None = None) -> Tensor:
        """D's logits (N,) of its outputs for samples with these codes."""
        return self.conditioning.logits(outputs, _for_each(codes, outputs))

    def judge(self, samples: Tensor, codes: Tensor | None = None, augmented: Transform = as_it_is) -> Tensor:
        """D's outputs in float32, in G's step: gradients reach the samples, not D's weights."""
        with self.autocast():
            return self._judge(self.calls.judge_frozen, samples, codes, augmented).float()

    def passes(self, codes: Tensor | None = None, augmented: Transform = as_it_is) -> Passes:
        """D's outputs in float32 for the batches of one update of D: each goes through D once. All have `codes`."""

        def judge(samples: Tensor) -> Tensor:
            with self.autocast():
                return self._judge(self.calls.judge, samples, codes, augmented).float()

        classes = self.conditioning.class_logits
        return Passes(judge, read=partial(self.read, codes=codes), read_classes=classes, together=self._one_pass)

    def penalty(self, passes: Passes, real: Tensor, fake: Tensor, part: slice) -> Tensor | None:
        """The sum of the penalties' means over the micro-batch; None where there is none in this step."""
        penalties = [penalty for penalty in self.penalties.values() if self.d_steps % every_steps(penalty) == 0]
        if not penalties:
            return None
        start = self.rank * self.local_batch_size
        rows = slice((start + part.start) // self.packing, (start + part.stop) // self.packing)

        def uniform(shape: tuple[int, ...]) -> Tensor:
            whole = self.streams.uniform((self.batch_size // self.packing, *shape[1:]), "penalty", self.d_steps)
            return whole[rows]

        for batch in (real, fake):
            batch.requires_grad_()
        values = [penalty(passes, real, fake, uniform).mean() for penalty in penalties]
        value = values[0] if len(values) == 1 else torch.stack(values).sum()
        return value if self.scheduled.penalty_factor == 1 else value * self.scheduled.penalty_factor

    def told_batch(self) -> tuple[Tensor, Tensor] | None:
        """This process's samples, as many as reals, whose labels D is told in its next update; None without such."""
        if self.told is None:
            return None
        start = self.d_steps * self.batch_size + self.rank * self.local_batch_size
        return self.told.batch(start, start + self.local_batch_size)

    def discriminator_term(self, real: Tensor, labels: Tensor | None, fake: Tensor, codes: Tensor) -> Tensor | None:
        """What D learns beside real against fake, from its outputs for both."""
        term = self.conditioning.discriminator_term(real, labels, fake, codes)
        return None if term is None else term.mean()

    def generator_term(self, outputs: Tensor, latents: Tensor, fake: Tensor) -> Tensor | None:
        """What G learns beside the adversarial loss, from D's outputs for its fakes."""
        terms = [self.conditioning.generator_term(outputs, self.codes_of(latents))]
        if self.encoder is not None:
            with self.autocast():
                encoded = self.encoder(fake).float()
            terms.append(self.conditioning.encoder_term(encoded, latents))
        if self.adversarial_loss.embedding_term is not None:
            terms.append(self.adversarial_loss.embedding_term(outputs[:, 1:]))
        means = [term.mean() for term in terms if term is not None]
        return torch.stack(means).sum() if means else None

    def note(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        """Keeps what `observe` will tell of a micro-batch."""
        if self.memories:
            real = real_logits.detach()
            self._judged.append(torch.stack([real.mean(), fake_logits.detach().mean(), real.sign().mean()]))

    def observe(self) -> None:
        """Tells the parts that keep a state how D judged the batch of its last update, over all processes."""
        if not self._judged:
            return
        means = torch.stack(self._judged).mean(dim=0)
        self._judged = []
        if self.world_size > 1:
            torch.distributed.all_reduce(means)
            means /= self.world_size
        real, fake, sign = means
        if self.adversarial_loss.observe is not None:
            self.adversarial_loss.observe(real, fake)
        for penalty in self.penalties.values():
            if hasattr(penalty, "observe"):
                penalty.observe(real, fake, self.batch_size)
        if self.augment is not None:
            self.augment.observe(sign, self.batch_size)
        for name, part in (("loss", self.adversarial_loss), ("augment", self.augment)):
            for key in getattr(part, "shown", ()):
                self.record(f"{name}/{key}", self.memories[name][key].clone())  # which a later step may overwrite

    @torch.no_grad()
    def plain_logits(self, samples: Tensor, labels: Tensor | None) -> Tensor:
        """D's logits for samples with these labels as evaluation asks for them: nothing augmented, nothing dropped."""
        codes = samples.new_zeros(len(samples), self.conditioning.num_codes)
        if labels is not None and self.conditioning.gives_labels:
            codes = self.conditioning.codes(len(samples), labels, torch.rand)  # of the labels: nothing is drawn
        whole = len(samples) - len(samples) % self.packing
        with evaluation_mode(self.discriminator):
            outputs = self._judge(self.discriminator, self.pack(samples[:whole]), codes, as_it_is)
            return self.read(outputs, codes).float()

    def lr_factor(self) -> float:
        factor = lr_factor(self.optimization.schedule, self.images_seen / self.budget_images)
        return self.lr_scale * self.scheduled.lr_factor * factor

    # ------------------------------------------------------------------ what was recorded

    def record(self, name: str, value: Tensor) -> None:
        """Adds the mean of a value, which is not overwritten later, to the mean that the next log point writes."""
        # Graphs of kernels leave what they return where their next run will write.
        self._means.add(name, value.clone() if self.compile_how == "cuda_graphs" else value)

    def take_metrics(self) -> dict[str, float]:
        """Means since the last call, over all processes, and the last gradient norms; waits for the device."""
        self.generator_player.check_finite(self)
        self.discriminator_player.check_finite(self)
        names, means = self._means.pop()
        if self.world_size > 1:
            torch.distributed.all_reduce(means)
            means /= self.world_size
        metrics = dict(zip(names, means.tolist(), strict=True))
        metrics |= {name: float(norm) for name, norm in self.gradient_norms.items()}
        self.gradient_norms = {}
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
            "pending_decay": self.pending_decay,
            "wall_seconds": self.wall_seconds,
            "recorded": self._means.state(),
            "memories": self.memories,
            **({} if self.encoder is None else {"encoder": self.encoder.state_dict()}),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts a state back, the optimizers' part once they exist; RuntimeError where shapes or names differ."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.generator_ema.load_state_dict(state["generator_ema"])
        found = state.get("memories", {})
        memories = {name.replace("penalty LeCam", "penalty.lecam"): found[name] for name in found}  # once by its class
        kept, needed = sorted(memories), sorted(self.memories)
        if kept != needed:
            raise RuntimeError(f"it holds the states of [{', '.join(kept)}], and [{', '.join(needed)}] have one.")
        if self.encoder is not None:
            self.encoder.load_state_dict(state["encoder"])
        self.wall_seconds = state["wall_seconds"]
        self.out_of_time = self.budget_seconds is not None and self.wall_seconds >= self.budget_seconds
        counters = state["counters"]
        self.images_seen = self.images_before = counters["images_seen"]
        self.d_steps, self.g_steps = counters["d_steps"], counters["g_steps"]
        self.pending_decay = state.get("pending_decay", 1.0)  # older runs averaged after each cycle
        self.state_to_load = state | {"memories": memories}

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
        if "sums" not in state["recorded"]:  # older runs': the next log point begins where they stopped
            self._means.load_state(state["recorded"], self.device)
        for name, memory in self.memories.items():
            memory.update({key: value.to(self.device) for key, value in state["memories"][name].items()})


def every_steps(penalty: Penalty) -> int:
    """At every how many updates of D a penalty is taken: its argument `every`, where it has one."""
    return getattr(penalty, "keywords", {}).get("every", 1)


def _for_each(codes: Tensor | None, rows: Tensor) -> Tensor:
    """Codes (N, num_codes) repeated for rows that are several batches of N, one after another; None: no codes."""
    if codes is None:
        return rows.new_empty(len(rows), 0)
    return codes if codes.shape[1] == 0 else codes.repeat(len(rows) // len(codes), 1)
