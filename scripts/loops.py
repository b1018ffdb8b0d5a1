"""The two loops that scripts/benchmark.py compares gan_lab with: as most people write it, and as fast as can be.

Both train the networks of a configuration with its loss, penalty and Adam settings. They share no code with gan_lab's
training step, and keep no averaged generator, no log and no checkpoint. What that step does beside its layers they do
not: keep forms of weights from pass to pass (gan_lab.conversions), derive penalties without zeros (layers.only_slopes).
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, dropout, interpolate, leaky_relu, linear, softplus
from torch.utils.data import DataLoader, Dataset, TensorDataset

from gan_lab import config as configuration
from gan_lab.compose import Composer, register_resolvers
from gan_lab.config import RunConfig, autocast_dtype
from gan_lab.models.layers import DoublingConv, HalvingConv, LastLayer, LeakyReLUDropout, UpsampledConv, mixes_samples


class Parts(NamedTuple):
    """What both loops by hand train."""

    config: RunConfig
    generator: nn.Module
    discriminator: nn.Module
    samples: Tensor
    device: torch.device


def build(overrides: Sequence[str], channels_last: bool) -> Parts:
    """The networks and the data of a configuration; nothing of the trainer."""
    register_resolvers(make=False)
    config = configuration.check(Composer().compose(overrides))
    samples = configuration.build_data(config).samples
    device = torch.device(configuration.device_type(config))
    torch.manual_seed(0)
    generator = configuration.build_generator(config.model, tuple(samples.shape[1:]))
    discriminator = configuration.build_discriminator(config.model, tuple(samples.shape[1:]))
    for network in (generator, discriminator):
        network.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    return Parts(config, generator, discriminator, samples, device)


def optimizers(parts: Parts, fused: bool) -> list[torch.optim.Optimizer]:
    """Adam with each player's settings: G's, then D's."""
    settings: Any = (parts.config.optimizer.generator, parts.config.optimizer.discriminator)
    networks = (parts.generator, parts.discriminator)
    return [
        torch.optim.Adam(network.parameters(), lr=one["lr"], betas=one["betas"], fused=fused)
        for network, one in zip(networks, settings, strict=True)
    ]


def loss_name(parts: Parts) -> str:
    return parts.config.loss.adversarial["_target_"].rsplit(".", 1)[-1]


def discriminator_loss(name: str, real: Tensor, fake: Tensor) -> Tensor:
    if name == "wasserstein":
        return fake.mean() - real.mean()
    if name == "relativistic":
        return softplus(fake - real).mean()
    return softplus(-real).mean() + softplus(fake).mean()


def generator_loss(name: str, real: Tensor | None, fake: Tensor) -> Tensor:
    if name == "wasserstein":
        return -fake.mean()
    return softplus(-(fake if real is None else fake - real)).mean()


def squared_slopes(logits: Tensor, samples: Tensor) -> Tensor:
    """Each sample's squared norm of the gradient of its logit."""
    (gradient,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def interpolation_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, weight: float) -> Tensor:
    """WGAN-GP's."""
    mixing = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    points = (mixing * real + (1 - mixing) * fake).requires_grad_()
    return weight * (squared_slopes(discriminator(points), points).sqrt() - 1).square().mean()


def penalty_weights(parts: Parts) -> dict[str, float]:
    """Weight of each penalty in use: wgan_gp, r1, r1_r2."""
    nodes = [parts.config.loss.penalty, *parts.config.penalty.values()]
    return {node["_target_"].rsplit(".", 1)[-1]: node["weight"] for node in nodes if node}


def two_layers(layer: UpsampledConv, images: Tensor) -> Tensor:
    """Upsampling and a convolution one after the other, as most people write it; gan_lab makes one layer of both."""
    return conv2d(interpolate(images, scale_factor=2), layer.weight, layer.bias, padding=1)


def flat_layer(layer: LastLayer, features: Tensor) -> Tensor:
    return linear(features.flatten(1), layer.weight, layer.bias)


def relu_and_dropout(layer: LeakyReLUDropout, inputs: Tensor) -> Tensor:
    return dropout(leaky_relu(inputs, layer.negative_slope), layer.p, layer.training)


def as_torch_has_it(network: nn.Module) -> None:
    """Layers that gan_lab computes in another way, and the order of their inputs in memory, back as they come."""
    for layer in network.modules():
        if isinstance(layer, UpsampledConv):
            layer.forward = partial(two_layers, layer)  # type: ignore[method-assign]
        if isinstance(layer, DoublingConv):
            layer.forward = partial(nn.ConvTranspose2d.forward, layer)  # type: ignore[method-assign]
        if isinstance(layer, LeakyReLUDropout):
            layer.forward = partial(relu_and_dropout, layer)  # type: ignore[method-assign]
        if isinstance(layer, LastLayer):
            layer.forward = partial(flat_layer, layer)  # type: ignore[method-assign]
        if isinstance(layer, HalvingConv):
            layer.forward = partial(nn.Conv2d.forward, layer)  # type: ignore[method-assign]
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_pre_hook(lambda _, inputs: inputs[0].contiguous())


def plain_steps(parts: Parts) -> Iterator[int]:
    """One cycle after another as most people write it; yields the images of each."""
    from PIL import Image  # here: the other loop's memory is not to hold torchvision
    from torchvision import transforms
    from torchvision.datasets import FashionMNIST

    config, generator, discriminator, samples, device = parts
    name, weights = loss_name(parts), penalty_weights(parts)
    as_torch_has_it(generator)
    as_torch_has_it(discriminator)
    size = samples.shape[-1]
    resize = [] if size in (8, 28) else [transforms.Resize(size)]
    to_input = transforms.Compose([*resize, transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])

    class Pictures(Dataset):
        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return to_input(Image.fromarray(samples[index, 0].numpy())), 0

    data: Any
    if samples.ndim == 2:
        data = TensorDataset(samples, torch.zeros(len(samples)))
    elif "fashion_mnist" in config.dataset["_target_"]:
        data = FashionMNIST(config.dataset["root"], transform=to_input)
    else:
        data = Pictures()
    loader = DataLoader(data, batch_size=config.batch_size, shuffle=True, drop_last=True)
    generator_optimizer, discriminator_optimizer = optimizers(parts, fused=False)
    step = 0
    while True:
        for real, _ in loader:
            real = real.to(device)
            latents = torch.randn(len(real), config.model.latent_dim, device=device)
            fake = generator(latents)

            discriminator_optimizer.zero_grad()
            real_input, fake_input = real.requires_grad_(), fake.detach().requires_grad_()
            real_logits, fake_logits = discriminator(real_input), discriminator(fake_input)
            loss = discriminator_loss(name, real_logits, fake_logits)
            for penalty, weight in weights.items():
                if penalty == "wgan_gp":
                    loss = loss + interpolation_penalty(discriminator, real.detach(), fake.detach(), weight)
                if penalty in ("r1", "r1_r2"):
                    loss = loss + weight / 2 * squared_slopes(real_logits, real_input).mean()
                if penalty == "r1_r2":
                    loss = loss + weight / 2 * squared_slopes(fake_logits, fake_input).mean()
            loss.backward()
            discriminator_optimizer.step()
            losses = [loss.item()]

            step += 1
            if step % config.loss.num_discriminator_steps == 0:
                generator_optimizer.zero_grad()
                real_logits_now = discriminator(real) if name == "relativistic" else None
                loss = generator_loss(name, real_logits_now, discriminator(fake))
                loss.backward()
                generator_optimizer.step()
                losses.append(loss.item())
            yield len(real)


def tight_steps(parts: Parts) -> Iterator[int]:
    """One cycle after another with nothing but the training; yields the images of each."""

    config, generator, discriminator, samples, device = parts
    name, weights = loss_name(parts), penalty_weights(parts)
    shares = "r1" in weights or "r1_r2" in weights
    dtype = autocast_dtype(config, tuple(samples.shape[1:]), device.type)
    samples = samples.to(device)
    size, latent_dim = config.batch_size, config.model.latent_dim
    generator_optimizer, discriminator_optimizer = optimizers(parts, fused=True)
    generator_weights, discriminator_weights = list(generator.parameters()), list(discriminator.parameters())
    one_pass = not mixes_samples(discriminator) and "r1" not in weights

    def cast() -> Any:
        return torch.autocast(device.type, dtype, enabled=dtype is not None)

    def batch() -> Tensor:
        chosen = samples[torch.randint(len(samples), (size,), device=device)]
        return chosen.float().div_(127.5).sub_(1) if chosen.dtype == torch.uint8 else chosen

    def draw() -> Tensor:
        with cast():
            return generator(torch.randn(size, latent_dim, device=device)).float()

    def judge(real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        with cast():
            if one_pass:
                logits = discriminator(torch.cat([real, fake])).float()
                return logits[:size], logits[size:]
            return discriminator(real).float(), discriminator(fake).float()

    while True:
        for _ in range(config.loss.num_discriminator_steps):
            real = batch()
            with torch.set_grad_enabled(config.loss.share_fakes):
                drawn = draw()
            fake = drawn.detach()
            if shares:
                real, fake = real.requires_grad_(), fake.requires_grad_()
            real_logits, fake_logits = judge(real, fake)
            loss = discriminator_loss(name, real_logits, fake_logits)
            if shares:
                inputs = [real, fake] if "r1_r2" in weights else [real]
                total = real_logits.sum() + (fake_logits.sum() if "r1_r2" in weights else 0.0)
                gradients = torch.autograd.grad(total, inputs, create_graph=True)
                weight = weights.get("r1_r2", weights.get("r1", 0.0))
                loss = loss + weight / 2 * sum(one.square().sum() for one in gradients) / size
            if "wgan_gp" in weights:
                with cast():
                    loss = loss + interpolation_penalty(discriminator, real, fake, weights["wgan_gp"])
            loss.backward(inputs=discriminator_weights)
            discriminator_optimizer.step()
            discriminator_optimizer.zero_grad()
        seen = None
        if name == "relativistic":
            with torch.no_grad(), cast():
                seen = discriminator(real.detach()).float()
        fake = drawn if config.loss.share_fakes else draw()
        with cast():
            fake_logits = discriminator(fake).float()
        generator_loss(name, seen, fake_logits).backward(inputs=generator_weights)
        generator_optimizer.step()
        generator_optimizer.zero_grad()
        yield config.loss.num_discriminator_steps * size
