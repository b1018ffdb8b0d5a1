"""The verbs: train, resume and sample, each the whole story on one screen."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Callback as LightningCallback
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment

from gan_lab import config as configuration
from gan_lab.callbacks.base import Callback
from gan_lab.callbacks.checkpoint import Checkpoint, last_checkpoint
from gan_lab.callbacks.hyperparameters import Hyperparameters
from gan_lab.callbacks.stop import Interrupted, Stop, terminable
from gan_lab.config import RunConfig
from gan_lab.data.batches import RealData
from gan_lab.errors import RunError
from gan_lab.files import read_checkpoint, write_checkpoint
from gan_lab.launch import PlayerwiseDDP, run_processes
from gan_lab.logs import quieten_lightning
from gan_lab.module import GAN
from gan_lab.record import RunRecord, machine, now

log = logging.getLogger(__name__)


def train(cfg: DictConfig, run_dir: Path) -> float | None:
    """Trains a new run in `run_dir` and returns its objective (None where objective=null).

    Raises ConfigError before anything is built, RunError if training cannot go on, Interrupted after SIGINT or SIGTERM.
    """
    config = configuration.check(cfg)
    record = RunRecord.create(run_dir, name=config.name, seed=config.seed)
    with record.locked():
        save_config(cfg, config.name, run_dir)
        return start(config, record)


def resume(run_dir: Path, cfg: DictConfig) -> float | None:
    """Continues the run in `run_dir` under `cfg` (its saved configuration, perhaps changed); returns its objective."""
    config = configuration.check(cfg)
    record = RunRecord.load(run_dir)
    with record.locked():
        before = configuration.plain(OmegaConf.load(run_dir / ".hydra" / "config.yaml"))  # type: ignore[arg-type]
        old, new = (dict(configuration.flat_keys(content)) for content in (before, configuration.plain(cfg)))
        changes = {key: [old.get(key), new.get(key)] for key in {**old, **new} if old.get(key) != new.get(key)}
        for key, (value_before, value_now) in changes.items():
            log.info(f"  {key}: {configuration.show(value_before)} -> {configuration.show(value_now)}")
        if last_checkpoint(run_dir).exists():  # what does not fit it is refused before anything is touched
            sample_shape = read_checkpoint(last_checkpoint(run_dir))["sample_shape"]
            load_state(configuration.build_gan(config, tuple(sample_shape)), run_dir)
        sitting = {"at": now(), "from_images": record.content["images_seen"], "changed": changes}
        record.update(resumed=[*record.content["resumed"], sitting])
        save_config(cfg, config.name, run_dir)
        return start(config, record)


def save_config(cfg: DictConfig, name: str, run_dir: Path) -> None:
    """.hydra/config.yaml with its interpolations, so that a later override reaches all it should; and resolved.yaml."""
    frozen = cfg.copy()
    OmegaConf.set_struct(frozen, False)
    frozen.name = name
    folder = run_dir / ".hydra"
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(frozen, folder / "config.yaml")
    OmegaConf.save(frozen, folder / "resolved.yaml", resolve=True)


def start(config: RunConfig, record: RunRecord) -> float | None:
    """Runs `fit` in this process, or in one process for each device, and keeps run.json's status true."""
    run_dir = record.run_dir
    record.update(status="running", error=None)
    log.info(f"run {config.name} in {run_dir}")
    log.info(f"watch it: tensorboard --logdir {run_dir / 'tensorboard'}")
    try:
        with terminable():
            if config.accelerator.num_processes > 1:
                return run_processes(fit, config, run_dir)
            return fit(config, run_dir)
    except BaseException as error:
        record = RunRecord.load(run_dir)
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        record.update(status=status, ended=now(), error=None if status == "interrupted" else str(error))
        raise


def fit(config: RunConfig, run_dir: Path) -> float | None:
    """Builds everything, trains from the last checkpoint or from the start, and returns the objective."""
    quieten_lightning()
    threads = config.accelerator.num_threads
    if threads is None and config.accelerator.num_processes > 1:
        threads = max(1, torch.get_num_threads() // config.accelerator.num_processes)
    if threads is not None:
        torch.set_num_threads(threads)

    data = configuration.build_data(config)
    sample_shape = tuple(data.samples.shape[1:])
    gan = configuration.build_gan(config, sample_shape)
    load_state(gan, run_dir)
    start_images = gan.images_seen

    stop = Stop()
    hyperparameters = Hyperparameters(
        configuration.hyperparameters(config),
        (run_dir / ".hydra" / "resolved.yaml").read_text(),
        configuration.measured(config),
    )
    callbacks = [stop, hyperparameters, *configuration.build_callbacks(config)]
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

    def save(gan: GAN) -> None:
        content = {
            "format": "gan_lab checkpoint 1",
            "model": configuration.asdict(config.model),
            "seed": config.seed,
            "sample_shape": list(sample_shape),
            "modes": data.modes,
            "mode_std": data.mode_std,
            **gan.state(),
        }
        write_checkpoint(last_checkpoint(run_dir), content)
        run_record.update(**progress(gan))

    for callback in own:
        if isinstance(callback, Checkpoint):
            callback.write = save
    if trainer.is_global_zero:
        run_record.update(machine=machine(trainer.strategy.root_device))

    datamodule = RealData(
        data,
        batch_size=config.batch_size,
        num_batches=config.loss.num_discriminator_steps,
        seed=config.seed,
        device_gib=config.accelerator.data_gib,
    )
    if gan.finished:
        log.info(
            f"the budget is used up after {gan.images_seen:,} images; raise budget.kimg or budget.minutes to go on"
        )
    else:
        trainer.fit(gan, datamodule)
    if stop.signal_number is not None:
        log.info(f"stopped at {gan.images_seen:,} images; continue with: gan-lab resume run={run_dir}")
        raise Interrupted(stop.signal_number)

    if trainer.is_global_zero:
        metrics = gan.latest_metrics or run_record.content.get("metrics", {})
        run_record.update(status="finished", ended=now(), metrics=metrics)
    return objective_of(config, run_record.content.get("metrics", {}))


class Hooks(LightningCallback):
    """Our callbacks as one of Lightning's: hooks in the given order, at half the cost of one callback each."""

    def __init__(self, callbacks: Sequence[Callback]):
        self.callbacks = callbacks

    def on_train_start(self, trainer: Trainer, gan: LightningModule) -> None:
        for callback in self.callbacks:
            callback.on_start(trainer, cast("GAN", gan))

    def on_train_batch_start(self, trainer: Trainer, gan: LightningModule, *_: Any) -> None:
        for callback in self.callbacks:
            callback.on_cycle_start(trainer, cast("GAN", gan))

    def on_train_batch_end(self, trainer: Trainer, gan: LightningModule, *_: Any) -> None:
        for callback in self.callbacks:
            callback.on_cycle_end(trainer, cast("GAN", gan))

    def on_train_end(self, trainer: Trainer, gan: LightningModule) -> None:
        for callback in self.callbacks:
            callback.on_end(trainer, cast("GAN", gan))

    def on_exception(self, trainer: Trainer, gan: LightningModule, exception: BaseException) -> None:
        for callback in self.callbacks:
            callback.on_exception(trainer, cast("GAN", gan))


def progress(gan: GAN) -> dict[str, Any]:
    return {
        "images_seen": gan.images_seen,
        "d_steps": gan.d_steps,
        "g_steps": gan.g_steps,
        "wall_seconds": round(gan.wall_seconds, 3),
        "images_per_second": round(gan.images_seen / gan.wall_seconds, 1),
    }


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


def load_state(gan: GAN, run_dir: Path) -> None:
    """Puts the last checkpoint's state into `gan`, if there is one yet."""
    path = last_checkpoint(run_dir)
    if not path.exists():
        return
    state = read_checkpoint(path)
    try:
        gan.load_state(state)
    except (RuntimeError, KeyError) as error:
        first = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), str(error))
        raise RunError(
            f"{path} is the checkpoint of another model than the configuration describes: {first} "
            "Undo the changes to model.* and dataset.*, or start a new run"
        ) from error


def objective_of(config: RunConfig, metrics: dict[str, float]) -> float | None:
    """The final value of the metric named by `objective`."""
    if config.objective is None:
        return None
    value = metrics.get(config.objective, math.nan)
    log.info(f"{config.objective}: {value:.5g}")
    return value
