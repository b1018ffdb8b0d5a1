"""The verbs train and resume, each the whole story on one screen."""

import logging
import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback as LightningCallback
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment

from gan_lab import config as configuration
from gan_lab.callbacks.base import Callback
from gan_lab.callbacks.checkpoint import Checkpoint, last_checkpoint, read_best_score, write_best
from gan_lab.callbacks.evaluation import Evaluate
from gan_lab.callbacks.health import Health, RollBack, Unhealthy
from gan_lab.callbacks.hyperparameters import Hyperparameters
from gan_lab.callbacks.report import Report, Reporter
from gan_lab.callbacks.stop import Stop, terminable
from gan_lab.config import RunConfig
from gan_lab.data import label_shares, some_of
from gan_lab.data.batches import Batch, RealData, told_samples
from gan_lab.errors import Interrupted, RunError
from gan_lab.evaluation import card_id
from gan_lab.files import read_checkpoint, write_checkpoint
from gan_lab.health import Finding
from gan_lab.heap import keep_freed_memory
from gan_lab.launch import PlayerwiseDDP, run_processes
from gan_lab.logs import quieten_lightning
from gan_lab.module import GAN
from gan_lab.objectives import value_of
from gan_lab.player import NonFinite
from gan_lab.record import RunRecord, machine, now

log = logging.getLogger(__name__)


def train(cfg: DictConfig, run_dir: Path, reporter: Reporter | None = None) -> float | None:
    """Trains a new run in `run_dir` and returns its objective (None where objective=null).

    reporter: is told of every metric that is written, and may end the run (status "pruned").

    Raises ConfigError before anything is built, RunError if training cannot go on, Interrupted after SIGINT or SIGTERM.
    """
    config = configuration.check(cfg)
    record = RunRecord.create(run_dir, name=config.name, seed=config.seed)
    with record.locked():
        configuration.save(cfg, config.name, run_dir)
        return start(config, record, reporter)


def resume(run_dir: Path, cfg: DictConfig, reporter: Reporter | None = None) -> float | None:
    """Continues the run in `run_dir` under `cfg` (its saved configuration, perhaps changed); returns its objective.

    Until training goes on, nothing of the run is changed: what cannot be trained with is refused, and not kept.
    """
    config = configuration.check(cfg)
    record = RunRecord.load(run_dir)
    with record.locked():
        before = configuration.plain(OmegaConf.load(run_dir / ".hydra" / "config.yaml"))  # type: ignore[arg-type]
        old, new = (dict(configuration.flat_keys(content)) for content in (before, configuration.plain(cfg)))
        changes = {key: [old.get(key), new.get(key)] for key in {**old, **new} if old.get(key) != new.get(key)}
        for key, (value_before, value_now) in changes.items():
            log.info(f"  {key}: {configuration.show(value_before)} -> {configuration.show(value_now)}")
        facts = {"at": now(), "from_images": record.content["images_seen"], "changed": changes}
        return start(config, record, reporter, Sitting(cfg, facts))


class Sitting(NamedTuple):
    """What is to be written down of a resumed run once its training goes on."""

    cfg: DictConfig
    facts: dict[str, Any]

    def begin(self, record: RunRecord, name: str) -> None:
        configuration.save(self.cfg, name, record.run_dir)
        record.update(status="running", error=None, resumed=[*record.content["resumed"], self.facts])


def start(
    config: RunConfig, record: RunRecord, reporter: Reporter | None = None, sitting: Sitting | None = None
) -> float | None:
    """Runs `fit` in this process, or in one process for each device, and keeps run.json's status true.

    sitting: of a run that is resumed.
    """
    run_dir = record.run_dir
    log.info(f"run {config.name} in {run_dir}")
    log.info(f"watch it: tensorboard --logdir {run_dir / 'tensorboard'}")
    try:
        with terminable():
            if config.accelerator.num_processes > 1:
                return run_processes(partial(fit, reporter=reporter, sitting=sitting), config, run_dir)
            return fit(config, run_dir, reporter, sitting)
    except BaseException as error:
        record = RunRecord.load(run_dir)
        if sitting is not None and sitting.facts not in record.content["resumed"]:
            raise  # before training went on
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        record.update(status=status, ended=now(), error=None if status == "interrupted" else str(error))
        raise


def fit(
    config: RunConfig, run_dir: Path, reporter: Reporter | None = None, sitting: Sitting | None = None
) -> float | None:
    """Trains from the last checkpoint or from the start, and returns the objective; rolls back where that was asked."""
    while True:
        try:
            return fit_once(config, run_dir, reporter, sitting)
        except RollBack as problem:
            sitting = None  # it has begun
            record = RunRecord.load(run_dir)
            path = last_checkpoint(run_dir)
            images = read_checkpoint(path)["counters"]["images_seen"] if path.exists() else 0
            done = {"at": now(), "to_images": images, "because": str(problem)}
            record.update(roll_backs=[*record.content.get("roll_backs", []), done])
            log.warning(f"rolled back to {images:,} images, with lower learning rates")


def fit_once(
    config: RunConfig, run_dir: Path, reporter: Reporter | None = None, sitting: Sitting | None = None
) -> float | None:
    """Builds everything and trains until the budget is used up, a signal comes, or the health watch ends it."""
    quieten_lightning()
    threads = config.accelerator.num_threads
    if threads is None and config.accelerator.num_processes > 1:
        threads = max(1, torch.get_num_threads() // config.accelerator.num_processes)
    if threads is not None:
        torch.set_num_threads(threads)
    if configuration.device_type(config) == "cpu":
        # Lightning sets it, and torch would then load NVIDIA's library, or fail to, in every step of Adam or RMSprop.
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)
        keep_freed_memory()

    data = configuration.build_data(config)
    configuration.check_data(config, data)
    training = some_of(data, config.num_training_images)
    sample_shape = tuple(data.samples.shape[1:])
    shares = label_shares(training)
    gan = configuration.build_gan(config, sample_shape, shares)
    gan.told = told_samples(training, gan.conditioning, config.seed)
    checkpoint = load_state(gan, run_dir)
    start_images = gan.images_seen

    stop = Stop()
    saved = run_dir / ".hydra" / "resolved.yaml"
    text = saved.read_text(encoding="utf-8") if sitting is None else configuration.resolved(sitting.cfg, config.name)
    hyperparameters = Hyperparameters(
        configuration.hyperparameters(config),
        text,
        configuration.measured(config, data),
    )
    callbacks = [stop, hyperparameters, *configuration.build_callbacks(config)]
    report = None if reporter is None else Report(reporter)
    if report is not None:
        callbacks.append(report)
    own = [callback for callback in callbacks if isinstance(callback, Callback)]
    trainer = Trainer(
        **placement(config),
        max_epochs=-1,
        logger=configuration.build_loggers(config, run_dir, start_images),
        callbacks=[Hooks(own), *[callback for callback in callbacks if callback not in own]],
        default_root_dir=run_dir,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    run_record = RunRecord.load(run_dir)
    about = {
        "model": configuration.asdict(config.model),
        "seed": config.seed,
        "sample_shape": list(sample_shape),
        "conditioning": config.conditioning,
        "label_shares": shares,
        "classes": None if data.classes is None else list(data.classes),
        "modes": data.modes,
        "mode_std": data.mode_std,
    }
    health = next((callback for callback in own if isinstance(callback, Health)), None)

    def save(gan: GAN) -> None:
        if health is None or health.keeps_checkpoints or gan.finished:
            memory = None if health is None else health.watch.state()
            write_checkpoint(last_checkpoint(run_dir), {**about, "health": memory, **gan.state()})
            run_record.update(**progress(gan))

    def keep_best(gan: GAN, score: dict[str, Any]) -> None:
        write_best(run_dir, about, gan, score)
        run_record.update(best=without_card(score))

    def record_finding(finding: Finding) -> None:
        run_record.update(health=[*run_record.content.get("health", []), finding._asdict()])

    def record_card(card: dict[str, Any]) -> None:
        cards = run_record.content.get("cards", {})
        if card_id(card) not in cards:
            run_record.update(cards={**cards, card_id(card): card})

    objective = configuration.deciding_metric(config)
    for callback in own:
        callback.objective = objective
        if isinstance(callback, Checkpoint):
            callback.write = save
        elif isinstance(callback, Evaluate):
            callback.record_card = record_card
            callback.keep, callback.best = keep_best, read_best_score(run_dir)
            if callback.best is not None:  # a run that was killed may not have said so
                run_record.update(best=without_card(callback.best))
            if trainer.is_global_zero:
                callback.check(data)
    if health is not None:
        health.record = record_finding
        health.memory = None if checkpoint is None else checkpoint["health"]
        health.num_roll_backs = len(run_record.content.get("roll_backs", []))
        gan.lr_scale = health.lr_factor**health.num_roll_backs

    datamodule = RealData(
        training,
        reference=data,
        batch_size=config.batch_size,
        num_batches=config.loss.num_discriminator_steps,
        seed=config.seed,
        device_gib=config.accelerator.data_gib,
        labels=training.labels if gan.conditioning.gives_labels else None,
        split=configuration.split_of(config),
        make_held_out=lambda: configuration.build_held_out(config),
        # Lightning's own callbacks are to see every cycle.
        cycles_at_once=CYCLES_AT_ONCE if len(own) == len(callbacks) else 1,
    )
    if gan.finished:
        log.info(
            f"the budget is used up after {gan.images_seen:,} images; raise budget.kimg or budget.minutes to go on"
        )
    else:
        if trainer.is_global_zero:
            if sitting is not None:
                sitting.begin(run_record, config.name)
            run_record.update(machine=machine(trainer.strategy.root_device))
        try:
            trainer.fit(gan, datamodule)
        except NonFinite as error:
            if health is not None and health.may_roll_back:
                raise RollBack(str(error)) from error
            raise
    if stop.signal_number is not None:
        log.info(f"stopped at {gan.images_seen:,} images; continue with: gan-lab resume run={run_dir}")
        raise Interrupted(stop.signal_number)
    if health is not None and health.asked_to_stop is not None:
        raise Unhealthy(f"stopped by the health watch at {gan.images_seen:,} images: {health.asked_to_stop.message}")

    if trainer.is_global_zero:
        metrics = gan.latest_metrics or run_record.content.get("metrics", {})
        status = "pruned" if report is not None and report.pruned else "finished"
        run_record.update(status=status, error=None, ended=now(), metrics=metrics)
    return objective_of(config, run_record.content)


CYCLES_AT_ONCE = 16
"""Cycles in one of Lightning's batches: what it does around each, the better part of a millisecond, is done once."""


class Hooks(LightningCallback):
    """Our callbacks as one of Lightning's, in the given order: they see each cycle, also of a batch that holds several.

    The first cycle of a batch is Lightning's call of `training_step`; the others are made here.
    """

    def __init__(self, callbacks: Sequence[Callback]):
        self.callbacks = callbacks

    def on_train_start(self, trainer: Trainer, gan: LightningModule) -> None:
        for callback in self.callbacks:
            callback.on_start(trainer, cast("GAN", gan))

    def on_train_batch_start(self, trainer: Trainer, gan: LightningModule, *_: Any) -> None:
        for callback in self.callbacks:
            callback.on_cycle_start(trainer, cast("GAN", gan))

    def on_train_batch_end(
        self, trainer: Trainer, gan: LightningModule, outputs: Any, batch: Batch | Iterator[Batch], batch_idx: int
    ) -> None:
        self._end_cycle(trainer, gan)
        while isinstance(batch, Iterator) and not trainer.should_stop:
            real = next(batch, None)
            if real is None:
                return
            self.on_train_batch_start(trainer, gan)
            cast("GAN", gan).training_step(real, batch_idx)
            self._end_cycle(trainer, gan)

    def _end_cycle(self, trainer: Trainer, gan: LightningModule) -> None:
        for callback in self.callbacks:
            callback.on_cycle_end(trainer, cast("GAN", gan))

    def on_train_end(self, trainer: Trainer, gan: LightningModule) -> None:
        for callback in self.callbacks:
            callback.on_end(trainer, cast("GAN", gan))

    def on_exception(self, trainer: Trainer, gan: LightningModule, exception: BaseException) -> None:
        for callback in self.callbacks:
            callback.on_exception(trainer, cast("GAN", gan), exception)


def progress(gan: GAN) -> dict[str, Any]:
    return {
        "images_seen": gan.images_seen,
        "d_steps": gan.d_steps,
        "g_steps": gan.g_steps,
        "wall_seconds": round(gan.wall_seconds, 3),
        "images_per_second": round(gan.images_seen / gan.wall_seconds, 1),
    }


def without_card(score: dict[str, Any]) -> dict[str, Any]:
    """A score for run.json, which has the cards apart."""
    return {key: value for key, value in score.items() if key != "card"}


def placement(config: RunConfig) -> dict[str, Any]:
    """The Trainer's arguments that say where it computes."""
    device = configuration.device_type(config)
    processes = config.accelerator.num_processes
    return {
        "accelerator": "gpu" if device == "cuda" else device,
        "devices": processes,
        "strategy": PlayerwiseDDP() if processes > 1 else "auto",
        "sync_batchnorm": processes > 1 and device == "cuda",
        "plugins": [LightningEnvironment()],
    }


def load_state(gan: GAN, run_dir: Path) -> dict[str, Any] | None:
    """Puts the last checkpoint's state into `gan` and returns the checkpoint, if there is one yet."""
    path = last_checkpoint(run_dir)
    if not path.exists():
        return None
    state = read_checkpoint(path)
    try:
        gan.load_state(state)
    except (RuntimeError, KeyError) as error:
        first = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
        raise RunError(
            f"{path} is the checkpoint of another model than the configuration describes: {first} "
            "Undo the changes to what it was trained with, or start a new run"
        ) from error
    return state


def objective_of(config: RunConfig, record: dict[str, Any]) -> float | None:
    """The value of the metric named by `objective` (see `value_of`), nan where it has none; None without one."""
    name = configuration.deciding_metric(config)
    if name is None:
        return None
    value = value_of(record, name)
    value = math.nan if value is None else value
    best = record.get("best", {})
    if best.get("metric") == name:
        log.info(f"best {name}: {value:.5g}, at {best['images_seen']:,} images (checkpoints/best.ckpt)")
    else:
        log.info(f"{name}: {value:.5g}")
    return value
