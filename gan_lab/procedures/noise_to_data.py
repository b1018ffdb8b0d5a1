"""Training a generator that maps noise to data against one discriminator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gan_lab.module import GAN


def alternating(gan: GAN, real: Tensor) -> None:
    """One cycle: num_discriminator_steps updates of D, then one of G (Goodfellow et al. 2014, algorithm 1).

    real: this process's samples of the whole cycle, (num_discriminator_steps * local batch, ...), one batch a D step.
    """
    for batch in real.chunk(gan.num_discriminator_steps):
        update_discriminator(gan, batch)
    update_generator(gan, batch)


def update_discriminator(gan: GAN, real: Tensor) -> None:
    """One step of D: mean loss plus mean penalties on real samples and on fakes that carry no graph to G."""
    latents = gan.draw_latents("noise/discriminator", gan.d_steps)
    for part in gan.parts():
        with torch.no_grad():
            fake = gan.generate(latents[part])
        real_part = real[part]
        passes = gan.passes()
        penalty = gan.penalty(passes, real_part, fake, part)  # first: the loss then shares its passes through D
        real_logits, fake_logits = passes.logits(real_part, fake)
        loss = gan.adversarial_loss.discriminator(real_logits, fake_logits).mean()
        gan.discriminator_player.backward(loss if penalty is None else loss + penalty, gan)
        gan.record("loss/discriminator", loss)
        gan.record("logits/real", real_logits.mean())
        gan.record("logits/fake", fake_logits.mean())
        gan.record("discriminator/accuracy", (real_logits > fake_logits).float().mean())
        if penalty is not None:
            gan.record("loss/penalty", penalty)
    gan.discriminator_player.step(gan)
    if gan.weight_clip is not None:
        gan.discriminator_player.clip_weights(gan.weight_clip)
    gan.d_steps += 1
    gan.images_seen += gan.batch_size


def update_generator(gan: GAN, real: Tensor) -> None:
    """One step of G; D only passes the gradient on: backward() is asked for G's gradients alone.

    real: a batch for the losses that compare fakes with it; the latents are new, so pairs are independent.
    """
    latents = gan.draw_latents("noise/generator", gan.g_steps)
    for part in gan.parts():
        seen: tuple[Tensor, ...] = ()
        if gan.adversarial_loss.generator_sees_real:
            with torch.no_grad():
                seen = (gan.judge(real[part]),)
        fake_logits = gan.judge(gan.generate(latents[part]))
        loss = gan.adversarial_loss.generator(*seen, fake_logits).mean()
        gan.generator_player.backward(loss, gan)
        gan.record("loss/generator", loss)
    gan.generator_player.step(gan)
    gan.g_steps += 1
