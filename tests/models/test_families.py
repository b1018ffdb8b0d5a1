"""What every family of image networks keeps to: shapes, ranges, gradients, precision, copies, seeds and refusals."""

import copy
import importlib
import inspect
from functools import partial
from types import ModuleType
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from gan_lab.compose import conf_dir
from gan_lab.ema import Average
from gan_lab.models import autoencoder, dcgan, mlp, r3gan, resnet, style, upconv
from gan_lab.models.layers import mixes_samples

FAMILIES: dict[str, tuple[ModuleType, dict[str, Any], dict[str, Any]]] = {
    "autoencoder": (autoencoder, {"width": 4}, {"width": 4, "embedding_dim": 6}),
    "autoencoder_squared": (autoencoder, {"width": 4}, {"width": 4, "embedding_dim": 6, "error": "squared"}),
    "dcgan": (dcgan, {"width": 4, "max_width": 8, "init_std": 0.2}, {"width": 4, "max_width": 8, "init_std": 0.2}),
    "r3gan": (r3gan, {"width": 4, "max_width": 8, "group_width": 4}, {"width": 4, "max_width": 8, "group_width": 4}),
    "resnet": (resnet, {"width": 4, "max_width": 8}, {"width": 4, "max_width": 8}),
    "resnet_attention": (
        resnet,
        {"width": 8, "max_width": 8, "depth": 1, "spectral_norm": True, "attention": 4},
        {"width": 8, "max_width": 8, "depth": 1, "num_flat": 2, "attention": 4},
    ),
    "style": (style, {"width": 4, "max_width": 8, "style_dim": 6}, {"width": 4, "max_width": 8}),
    "style_noise": (style, {"width": 4, "max_width": 8, "style_dim": 6, "noise": True}, {"width": 4, "max_width": 8}),
    "upconv": (upconv, {"width": 8, "init_std": 0.2}, {"width": 8, "init_std": 0.2}),
}
ANY_SIZE = [name for name in FAMILIES if name != "resnet_attention"]
EVERY_FAMILY = pytest.mark.parametrize("family", FAMILIES)
LATENT_DIM = 5


def generator_of(family: str, size: int = 8, channels: int = 1, seed: int = 0) -> nn.Module:
    module, settings, _ = FAMILIES[family]
    torch.manual_seed(seed)
    return module.Generator(sample_shape=(channels, size, size), latent_dim=LATENT_DIM, **settings)


def discriminator_of(family: str, size: int = 8, channels: int = 1, seed: int = 0, **more: Any) -> nn.Module:
    module, _, settings = FAMILIES[family]
    torch.manual_seed(seed)
    return module.Discriminator(sample_shape=(channels, size, size), **settings, **more)


def judged(discriminator: nn.Module, images: Tensor) -> Tensor:
    """(N,): the logits, of an autoencoder times the number of values: minus the sum of the errors, not their mean."""
    outputs = discriminator(images)
    return outputs[:, 0] * images[0].numel() if hasattr(discriminator, "gives_energy") else outputs


def away_from_zero(network: nn.Module) -> nn.Module:
    """The network with what starts at zero drawn: the layers behind such a parameter have no gradient at the start."""
    for parameter in network.parameters():
        if (parameter == 0).all():
            nn.init.normal_(parameter, 0.0, 0.2)
    return network


@pytest.mark.parametrize("family", ANY_SIZE)
@pytest.mark.parametrize(
    ("size", "channels"), [(8, 1), (8, 2), (8, 3), (8, 4), (28, 1), (32, 3), (64, 3), (64, 4), (128, 1), (128, 2)]
)
def test_shapes_and_range(family: str, size: int, channels: int) -> None:
    generator = generator_of(family, size, channels)
    *_, last = [parameter for parameter in generator.parameters() if parameter.ndim == 4]
    last.data *= 1000
    images = generator(torch.randn(2, LATENT_DIM)).detach()
    discriminator = discriminator_of(family, size, channels)

    assert images.shape == (2, channels, size, size)
    assert 0.99 < images.abs().max() <= 1
    shape = (2, 1 + 6) if family.startswith("autoencoder") else (2,)
    assert discriminator(images).shape == shape


@pytest.mark.parametrize("family", ANY_SIZE)
@pytest.mark.parametrize("size", [9, 28, 37])
def test_every_pixel_is_drawn_and_judged(family: str, size: int) -> None:
    """An odd side is cropped or halved unevenly; no row or column may be constant because of it."""
    images = generator_of(family, size)(torch.randn(8, LATENT_DIM)).detach()
    assert (images.std(dim=0) > 0).all()

    inputs = torch.randn(8, 1, size, size, requires_grad=True)
    (gradient,) = torch.autograd.grad(judged(discriminator_of(family, size), inputs).sum(), inputs)
    assert (gradient.abs().sum(dim=(0, 1)) > 0).all()


@pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith("autoencoder")])
def test_each_output_is_one_row_of_the_last_layer(family: str) -> None:
    """A discriminator of four outputs is four of one logit that differ in the last layer alone."""
    plain = {"spectral_norm": False} if family.startswith("resnet") else {}  # it would be of the four rows together
    one, four = (away_from_zero(discriminator_of(family, num_outputs=num, **plain)).eval() for num in (1, 4))
    images = torch.randn(3, 1, 8, 8)
    outputs = four(images)
    state = four.state_dict()
    last = [name for name, value in one.state_dict().items() if value.shape != state[name].shape]

    assert list(state) == list(discriminator_of(family, **plain).state_dict())
    assert {name.rsplit(".", 1)[0] for name in last} == {"logit"}
    assert outputs.shape == (3, 4)
    assert four(images[:1]).shape == (1, 4)
    for row in range(4):
        one.load_state_dict({name: value[row : row + 1] if name in last else value for name, value in state.items()})
        torch.testing.assert_close(one(images), outputs[:, row], rtol=1e-4, atol=1e-5)


@EVERY_FAMILY
def test_gradients_reach_every_parameter(family: str) -> None:
    # In evaluation mode, for BatchNorm takes away what the bias of a convolution before it adds.
    generator = away_from_zero(generator_of(family)).eval()
    discriminator = away_from_zero(discriminator_of(family)).eval()
    judged(discriminator, generator(torch.randn(4, LATENT_DIM))).square().sum().backward()

    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 1e-12, name


@EVERY_FAMILY
def test_each_sample_is_drawn_and_judged_by_itself(family: str) -> None:
    generator, discriminator = generator_of(family).eval(), away_from_zero(discriminator_of(family)).eval()
    latents = torch.randn(4, LATENT_DIM)
    images = generator(latents).detach()
    logits = judged(discriminator, images)

    assert not mixes_samples(discriminator)
    assert logits.std() > 1e-4
    torch.testing.assert_close(torch.cat([generator(one[None]) for one in latents]), images, rtol=1e-4, atol=1e-5)
    alone = torch.cat([judged(discriminator, image[None]) for image in images])
    torch.testing.assert_close(alone, logits, rtol=1e-4, atol=1e-5)


WITH_OPTIONS = {
    "dcgan": dcgan.Discriminator,
    "upconv": partial(upconv.Discriminator, dropout=0.0),
    "mlp": partial(mlp.Discriminator, depth=2),
}


@pytest.mark.parametrize("family", WITH_OPTIONS)
def test_spectral_norm_keeps_every_weights_largest_singular_value_at_1(family: str) -> None:
    torch.manual_seed(0)
    discriminator = WITH_OPTIONS[family](sample_shape=(1, 8, 8), width=8, spectral_norm=True)
    layers = [layer for layer in discriminator.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert len(layers) >= 2
    for _ in range(50):
        discriminator(torch.randn(4, 1, 8, 8))
    discriminator.eval()
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        assert largest.item() == pytest.approx(1, abs=0.01)
    plain = WITH_OPTIONS[family](sample_shape=(1, 8, 8), width=8)
    assert not any(is_parametrized(layer) for layer in plain.modules())


@pytest.mark.parametrize("family", ["dcgan", "upconv"])
def test_minibatch_std_is_one_more_channel_before_the_last_layer(family: str) -> None:
    torch.manual_seed(0)
    discriminator = WITH_OPTIONS[family](sample_shape=(1, 8, 8), width=8, minibatch_std=2)
    last, pixels = discriminator.logit.in_features, []
    discriminator.group.register_forward_hook(lambda layer, given, made: pixels.append((given[0], made)))
    images = torch.randn(4, 1, 8, 8)
    logits = discriminator(images)
    given, made = pixels[0]
    assert torch.equal(made[:, :-1], given)
    assert made[0].numel() == last
    pair = given[:2]
    spread = (pair[0] - pair[1]).abs() / 2  # the deviation of two values
    torch.testing.assert_close(made[0, -1], spread.mean().expand_as(made[0, -1]), rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(discriminator(images[:2]), logits[:2], rtol=1e-4, atol=1e-6)  # a group by itself
    assert not torch.allclose(discriminator(images[[0, 2]])[0], logits[0])
    assert mixes_samples(discriminator)


@EVERY_FAMILY
def test_gradients_and_those_of_a_penalty_on_them_are_right(family: str) -> None:
    """Backward and double backward, against differences between two near images, and two near sets of parameters."""
    discriminator = away_from_zero(discriminator_of(family)).double().eval()
    images = torch.randn(3, 1, 8, 8, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(judged(discriminator, images).sum(), images)
    direction = torch.randn_like(images)
    with torch.no_grad():
        ends = [judged(discriminator, images + step * direction).sum().item() for step in (1e-6, -1e-6)]
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx((gradient * direction).sum().item(), rel=1e-4)

    def penalty() -> Tensor:
        (gradient,) = torch.autograd.grad(judged(discriminator, images).sum(), images, create_graph=True)
        return gradient.square().sum()

    parameters = list(discriminator.parameters())
    gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    directions = [torch.randn_like(parameter) for parameter in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)
    values = []
    for step in (1e-7, -2e-7):  # one step forward, then to the other side; 1e-6 steps over a kink of LeakyReLU
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data += step * direction
        values.append(penalty().item())

    assert slope.abs() > 1e-3
    assert (values[0] - values[1]) / 2e-7 == pytest.approx(slope.item(), rel=1e-4)


@EVERY_FAMILY
def test_one_step_of_training_with_two_passes_and_a_penalty(family: str) -> None:
    """In training mode: a layer that changes its state in each pass must not spoil the backward of the one before."""
    discriminator = discriminator_of(family)
    real, fake = torch.randn(4, 1, 8, 8, requires_grad=True), torch.randn(4, 1, 8, 8)
    loss = judged(discriminator, real).mean() - judged(discriminator, fake).mean()
    (gradient,) = torch.autograd.grad(judged(discriminator, real).sum(), real, create_graph=True)
    (loss + gradient.square().sum()).backward()

    for name, parameter in discriminator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@EVERY_FAMILY
def test_bfloat16_and_channels_last_change_little(family: str) -> None:
    generator = away_from_zero(generator_of(family)).eval()
    discriminator = away_from_zero(discriminator_of(family)).eval()
    latents = torch.randn(4, LATENT_DIM)
    images = generator(latents).detach()
    logits = judged(discriminator, images).detach()
    for network in (generator, discriminator):
        network.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        low_images = generator(latents)
        low_logits = judged(discriminator, images.to(memory_format=torch.channels_last))
        low_judged = judged(discriminator, low_images)
    low_judged.float().sum().backward()

    torch.testing.assert_close(low_images.float(), images, rtol=0.05, atol=0.05)
    assert not hasattr(discriminator, "gives_energy") or low_logits.dtype == torch.float32
    torch.testing.assert_close(low_logits.float(), logits, rtol=0.1, atol=0.1 * logits.abs().max().item())
    for network in (generator, discriminator):
        assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@EVERY_FAMILY
def test_a_copy_can_be_averaged_and_saved(family: str) -> None:
    """As the trainer does with the averaged generator: deepcopy, foreach lerp of parameters, buffers copied."""
    generator = generator_of(family)
    copied = copy.deepcopy(generator).requires_grad_(False)
    average = Average(copied, generator)  # before training: it holds the very tensors that training is to change
    start = [parameter.clone() for parameter in copied.parameters()]
    latents = torch.randn(4, LATENT_DIM)
    for _ in range(3):
        generator(latents).square().mean().backward()
        for parameter in generator.parameters():
            parameter.data -= 0.1 * parameter.grad

    for old, parameter in zip(start, copied.parameters(), strict=True):
        assert torch.equal(old, parameter)  # the copy shares nothing
    average.update(0.75)
    for old, mean, new in zip(start, copied.parameters(), generator.parameters(), strict=True):
        torch.testing.assert_close(mean, 0.75 * old + 0.25 * new.detach())
    for (name, mean), new in zip(copied.named_buffers(), generator.buffers(), strict=True):
        assert torch.equal(mean, new), name
    average.update(0.0)
    restored = generator_of(family, seed=1).eval()
    restored.load_state_dict(copied.state_dict())
    expected = generator.eval()(latents)
    assert torch.equal(copied.eval()(latents), expected)
    assert torch.equal(restored(latents), expected)


@EVERY_FAMILY
def test_the_seed_decides(family: str) -> None:
    latents, images = torch.randn(2, LATENT_DIM), torch.randn(2, 1, 8, 8)

    def both(seed: int) -> tuple[Tensor, Tensor]:
        generator, discriminator = generator_of(family, seed=seed), discriminator_of(family, seed=seed)
        return generator.eval()(latents), discriminator.eval()(images)

    for one, same, other in zip(both(0), both(0), both(1), strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


@EVERY_FAMILY
def test_channels_stay_last_in_the_memory_of_a_generator(family: str) -> None:
    """From the first convolution to the image; of one channel, both orders are the same, and either may come out."""
    generator = generator_of(family).to(memory_format=torch.channels_last)
    in_order = []
    for layer in generator.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
            layer.register_forward_hook(
                lambda _, inputs, maps: in_order.extend(
                    one.is_contiguous(memory_format=torch.channels_last)
                    for one in (*inputs, maps)
                    if inputs[0].shape[1] > 1
                )
            )

    generator(torch.randn(3, LATENT_DIM))
    assert all(in_order)
    assert in_order or family.startswith("style")  # its convolutions are functions


@pytest.mark.parametrize("family", ["autoencoder", "dcgan", "r3gan", "resnet", "style", "upconv"])
@pytest.mark.parametrize("network", ["Generator", "Discriminator"])
def test_what_cannot_be_drawn_is_refused_with_a_remedy(family: str, network: str) -> None:
    build = getattr(FAMILIES[family][0], network)

    assert build.images_only is True
    for shape in [(2,), (1, 28, 32)]:
        with pytest.raises(ValueError, match=f"model={family} draws square images .*: use model=mlp"):
            build(sample_shape=shape)
    build(sample_shape=(1, 9, 9), width=4, depth=3)
    with pytest.raises(ValueError, match="depth=4 halves 9 pixels to less than 2: use a smaller depth"):
        build(sample_shape=(1, 9, 9), width=4, depth=4)


@pytest.mark.parametrize("family", ["autoencoder", "coupled", "r3gan", "resnet", "style", "upconv"])
def test_the_conf_file_states_every_default(family: str) -> None:
    cfg = OmegaConf.create({"loss": {"discriminator_norm": "none"}})
    cfg.model = OmegaConf.load(conf_dir() / "model" / f"{family}.yaml")
    for player in ("generator", "discriminator"):
        node = OmegaConf.to_container(cfg.model[player], resolve=True)
        assert isinstance(node, dict)
        assert node.pop("_target_") == f"gan_lab.models.{family}.{player.capitalize()}"
        network = getattr(importlib.import_module(f"gan_lab.models.{family}"), player.capitalize())
        parameters = dict(inspect.signature(network).parameters)
        del parameters["sample_shape"]
        parameters.pop("num_outputs", None)  # these two are given by the program
        assert node == {name: parameter.default for name, parameter in parameters.items()}
