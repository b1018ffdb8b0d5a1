"""A GAN of a few weights, built without a configuration: for tests of the training step."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from gan_lab.data import Data
from gan_lab.data.batches import RealData
from gan_lab.losses import AdversarialLoss, vanilla, wasserstein
from gan_lab.models.mlp import Discriminator, Generator
from gan_lab.module import GAN, Optimization, OptimizerFactory, Penalty
from gan_lab.penalties import wgan_gp

LATENT_DIM = 4
BATCH_SIZE = 8
METHODS: dict[str, dict[str, Any]] = {
    "vanilla": {"adversarial_loss": vanilla()},
    "wgan_gp": {
        "adversarial_loss": wasserstein(),
        "penalties": [partial(wgan_gp, weight=1.0)],
        "num_discriminator_steps": 5,
    },
}


def sgd(lr: float) -> OptimizerFactory:
    """Plain gradient descent: the step is the gradient."""
    return partial(torch.optim.SGD, lr=lr)


def tiny_gan(
    *,
    sample_shape: tuple[int, ...] = (2,),
    optimizer: OptimizerFactory = sgd(0.02),  # noqa: B008
    generator_norm: str = "none",
    discriminator: dict[str, Any] | None = None,
    optimization: dict[str, Any] | None = None,
    initialisation: int = 0,
    adversarial_loss: AdversarialLoss = vanilla(),  # noqa: B008
    penalties: Sequence[Penalty] = (),
    **settings: Any,
) -> GAN:
    """penalties: by the keys penalty.0, penalty.1, ..."""
    torch.manual_seed(initialisation)
    size: dict[str, Any] = {"sample_shape": sample_shape, "width": 8, "depth": 2}
    generator_network = Generator(latent_dim=LATENT_DIM, norm=generator_norm, **size)  # type: ignore[arg-type]
    discriminator_network = Discriminator(**size, **(discriminator or {}))
    for parameter in (*generator_network.parameters(), *discriminator_network.parameters()):
        if parameter.ndim > 1:
            nn.init.normal_(parameter, 0, 0.5)  # steps much larger than the rounding they are compared with
    return GAN(
        generator=generator_network,
        discriminator=discriminator_network,
        latent_dim=LATENT_DIM,
        adversarial_loss=adversarial_loss,
        optimization=Optimization(optimizer, optimizer, **(optimization or {})),
        penalties={f"penalty.{index}": penalty for index, penalty in enumerate(penalties)},
        **{"batch_size": BATCH_SIZE, "budget_images": 1000, **settings},
    )


def ready(gan: GAN) -> GAN:
    """The module as the Trainer leaves it before the first cycle, for cycles without a Trainer."""
    gan.trainer = trainer()
    gan.configure_optimizers()
    return gan


def trainer(callbacks: Sequence[Callback] = (), cycles: int = 1) -> Trainer:
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        limit_train_batches=cycles,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def points(num: int = 50, shape: tuple[int, ...] = (2,)) -> Tensor:
    return torch.randn((num, *shape), generator=torch.Generator().manual_seed(99)) * 2 + 1


def fit(gan: GAN, cycles: int, samples: Tensor, after_cycle: Callable[[GAN], None] | None = None) -> GAN:
    """Trains under Lightning, as a run does."""

    class AfterCycle(Callback):
        def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
            if after_cycle is not None:
                after_cycle(module)

    data = RealData(
        Data(samples, None, None),
        batch_size=gan.batch_size,
        num_batches=gan.num_discriminator_steps,
        seed=gan.seed,
        device_gib=1.0,
    )
    trainer([AfterCycle()], cycles).fit(gan, data)
    return gan


def cycle_of(gan: GAN, shape: tuple[int, ...] = (2,), seed: int = 0) -> Tensor:
    """Real samples for one cycle."""
    num = gan.num_discriminator_steps * gan.batch_size
    return torch.randn((num, *shape), generator=torch.Generator().manual_seed(seed)) * 2 + 1


def copy_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


def same_weights(network: nn.Module, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


def assert_close(network: nn.Module, other: nn.Module, **tolerance: float) -> None:
    for (name, value), expected in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, **tolerance, msg=lambda text, name=name: f"{name}: {text}")
