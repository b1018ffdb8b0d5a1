"""A trained generator, from the files of its run."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from gan_lab import config as configuration
from gan_lab.callbacks.checkpoint import last_checkpoint, read_best
from gan_lab.errors import ConfigError, RunError
from gan_lab.files import read_checkpoint
from gan_lab.sampling import LatentSpace

SavedWeights = Literal["ema", "raw", "best"]
"""ema, raw: of the last checkpoint. best: those that scored best in evaluations (checkpoints/best.ckpt)."""


class Trained(NamedTuple):
    """space: what the generator's inputs are drawn from. content: the checkpoint that the weights come from, with seed,
    sample_shape, classes, modes, mode_std, ..."""

    generator: nn.Module
    space: LatentSpace
    images_seen: int
    content: dict[str, Any]


def device_of(name: Literal["cpu", "gpu"]) -> torch.device:
    if name == "gpu" and not torch.cuda.is_available():
        raise ConfigError("device=gpu: torch sees no GPU on this machine; use device=cpu")
    return torch.device("cuda" if name == "gpu" else "cpu")


def trained_generator(run_dir: Path, weights: SavedWeights, device: torch.device) -> Trained:
    """The generator of a run; RunError where its checkpoint is missing, damaged or of other code."""
    if weights == "best":
        content = read_best(run_dir)
        saved, images_seen = content["generator"], content["score"]["images_seen"]
    else:
        content = read_checkpoint(last_checkpoint(run_dir))
        saved = content["generator_ema" if weights == "ema" else "generator"]
        images_seen = content["counters"]["images_seen"]
    model = configuration.check_against(configuration.Model, content["model"])
    shares = content.get("label_shares")
    conditioning = configuration.build_conditioning(content.get("conditioning"), model, shares)
    space = LatentSpace(model.latent_dim, model.latent_distribution, conditioning, shares)
    generator = configuration.build_generator(model, tuple(content["sample_shape"]), conditioning.num_codes).to(device)
    try:
        generator.load_state_dict(saved)
    except RuntimeError as error:
        raise RunError(f"{run_dir}: its checkpoint was made by another version of model.generator: {error}") from error
    generator.eval()
    return Trained(generator, space, images_seen, content)


def trained_reader(trained: Trained, device: torch.device) -> nn.Module | None:
    """What tells classes apart, D or the encoder, as it was when the generator was saved; None where neither tries, and
    beside the best generator, which is kept alone."""
    content, conditioning = trained.content, trained.space.conditioning
    if conditioning.reads is None or "discriminator" not in content:
        return None
    name, num_outputs = "discriminator", conditioning.num_outputs
    if conditioning.has_encoder:
        name, num_outputs = "encoder", trained.space.dim + conditioning.num_codes
    model = configuration.check_against(configuration.Model, content["model"])
    reader = configuration.build_discriminator(model, tuple(content["sample_shape"]), num_outputs).to(device)
    reader.load_state_dict(content[name])
    return reader
