"""A large random sample of all combinations: each is refused with a reason and a remedy, or trains two finite steps."""

import functools
import random
import re
from collections import Counter

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from tiny import ready

from gan_lab import config as configuration
from gan_lab.compose import Composer
from gan_lab.data import Data, as_training_input, label_shares
from gan_lab.data.batches import told_samples
from gan_lab.errors import ConfigError

NUM_COMBINATIONS = 240
DATASETS = ["digits", "gaussian_ring", "coupled_digits"]
GROUPS = ["model", "dataset", "loss", "penalty", "augment", "conditioning", "schedule", "optimizer"]
KEYS: dict[str, list[object]] = {
    "batch_size": [8, 12],
    "model.packing": [1, 1, 2],
    "optimizer.accumulate": [1, 1, 2],
    "loss.discriminator_norm": [None, None, "none", "batch"],
    "loss.warmup_kimg": [0, 0, 0.01],
    "loss.share_fakes": [False, True],
    "loss.weight_clip": [None, None, None, 0.01],
    "loss.adversarial.smoothing": [None, 0.1],
    "loss.adversarial.pull_away": [None, 0.1],
    "model.generator.norm": [None, None, "none", "layer"],
    "model.discriminator.spectral_norm": [None, None, True],
    "model.discriminator.minibatch_std": [None, None, 4],
    "model.discriminator.attention": [None, 4],
    "penalty.r1.every": [None, None, 2],
    "loss.penalty.one_sided": [None, True],
    "loss.penalty.at": [None, "real_and_fake"],
}
"""None: as the choices have it. What a choice does not have is left out."""
REMEDY = re.compile(r"[;:,] (use|set|give|raise|remove|leave|install|or leave) ")


@pytest.fixture(scope="module")
def options() -> dict[str, dict[str, DictConfig]]:
    """The node of every option of every group."""
    composer = Composer()
    found: dict[str, dict[str, DictConfig]] = {}
    for group in GROUPS:
        names = DATASETS if group == "dataset" else composer.options(group)
        found[group] = {name: composer.compose([f"{group}={name}"])[group] for name in names}
    found["whole"] = {"default": composer.compose([])}
    GlobalHydra.instance().clear()
    return found


@functools.cache
def data_of(source: str) -> Data:
    """Built once each: configurations name the same files."""
    return configuration._instantiate(
        {"_target_": source, **({"num_points": 500} if "points" in source else {})}, "dataset"
    )


def combination(number: int, options: dict[str, dict[str, DictConfig]]) -> tuple[DictConfig, str]:
    """One whole configuration drawn by number, small, and what it consists of."""
    drawn = random.Random(number)
    cfg = options["whole"]["default"].copy()
    OmegaConf.set_struct(cfg, False)
    chosen = {group: drawn.choice(sorted(options[group])) for group in GROUPS}
    for group in ("augment", "conditioning", "penalty"):
        if drawn.random() < 0.4:
            chosen[group] = "none"
    if drawn.random() < 0.5:  # else few models meet data and a loss that they can work with
        chosen["model"] = drawn.choice(["mlp", "dcgan", "upconv", "r3gan"])
    for group, option in chosen.items():
        cfg[group] = options[group][option].copy()
    cfg.model.width, cfg.model.latent_dim = 16, 6
    cfg.budget.kimg = 1
    for key, values in KEYS.items():
        value = drawn.choice(values)
        parent, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, parent) if parent else cfg
        if value is not None and node is not None and name in node:
            OmegaConf.update(cfg, key, value, force_add=True)
    return cfg, " ".join(f"{group}={option}" for group, option in chosen.items())


def train_two_cycles(cfg: DictConfig) -> dict[str, float]:
    """Two steps without a Trainer, as a run would make them."""
    config = configuration.check(cfg)
    data = data_of(config.dataset["_target_"])
    gan = ready(configuration.build_gan(config, tuple(data.samples.shape[1:]), label_shares(data)))
    gan.told = told_samples(data, gan.conditioning, config.seed)
    num = config.batch_size * config.loss.num_discriminator_steps
    for number in range(2):
        rows = torch.arange(number * num, (number + 1) * num) % len(data.samples)
        real = as_training_input(data.samples[rows])
        if gan.conditioning.gives_labels:
            assert data.labels is not None
            gan.training_step((real, data.labels[rows]), number)
        else:
            gan.training_step(real, number)
    metrics = gan.take_metrics()
    state = gan.state_dict()
    assert all(torch.isfinite(value).all() for value in state.values())
    return metrics


def outcome(number: int, options: dict[str, dict[str, DictConfig]]) -> str:
    cfg, name = combination(number, options)
    problems = configuration.problems_of(cfg)
    if not problems:
        try:
            metrics = train_two_cycles(cfg)
        except ConfigError as error:  # what only the data or the networks' sizes show
            problems = error.problems
        else:
            assert all(torch.isfinite(torch.tensor(value)) for value in metrics.values()), (name, metrics)
            return "trained"
    for problem in problems:
        assert REMEDY.search(problem), (name, problem)
    return "refused"


@pytest.mark.parametrize("part", range(4))
def test_each_is_refused_with_a_remedy_or_trains(part: int, options: dict[str, dict[str, DictConfig]]) -> None:
    torch.manual_seed(0)
    outcomes = Counter(outcome(number, options) for number in range(part, NUM_COMBINATIONS, 4))
    assert min(outcomes["trained"], outcomes["refused"]) > 10, outcomes


LEGAL: dict[str, list[str]] = {
    "labels need labels": ["conditioning=projection", "dataset=coupled_digits", "model=dcgan"],
    "energies need an autoencoder": ["loss=energy", "model=dcgan"],
    "an autoencoder needs an energy loss": ["model=autoencoder", "loss=vanilla"],
    "an autoencoder has no class outputs": ["model=autoencoder", "loss=began", "conditioning=acgan"],
    "BatchNorm under a penalty": ["model=dcgan", "penalty=r1"],
    "packs have no label": ["model.packing=2", "conditioning=concat"],
    "packs divide the batch": ["model.packing=3"],
    "whole batches are not divided": ["loss=softmax", "optimizer.accumulate=2"],
    "lazy penalties are not for points": ["dataset=gaussian_ring", "penalty=r1", "penalty.r1.every=16"],
    "augmentation of images": ["dataset=gaussian_ring", "augment=ada"],
    "consistency of images": ["dataset=gaussian_ring", "penalty=consistency"],
    "classes to compare": ["dataset=digits", "model=dcgan", "penalty=class_consistency"],
    "packs would mix domains": ["model=coupled", "dataset=coupled_digits", "model.packing=2"],
    "a length for each domain": ["model=coupled", "dataset=coupled_digits", "loss=wgan_gp"],
    "ADA reads signs": ["loss=lsgan", "augment=ada"],
    "G must have its turn": ["loss.warmup_kimg=1000"],
    "a second beta needs betas": ["optimizer=rmsprop", "schedule=burn_in"],
}


@pytest.mark.parametrize("rule", LEGAL)
def test_the_rules(rule: str) -> None:
    problems = configuration.problems_of(Composer().compose(LEGAL[rule]))
    GlobalHydra.instance().clear()
    assert len(problems) == 1, problems
