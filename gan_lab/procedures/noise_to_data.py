"""Training a generator that maps noise to data against one discriminator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gan_lab.module import GAN


class Fakes(NamedTuple):
    """What G made of `latents` in one micro-batch, with its graph."""

    latents: Tensor
    samples: Tensor


def alternating(gan: GAN, real: Tensor, labels: Tensor | None = None) -> None:
    """One cycle: num_discriminator_steps updates of D, then one of G (Goodfellow et al. 2014, algorithm 1).

    real: this process's samples of the whole cycle, (num_discriminator_steps * local batch, ...), one batch a D step;
    labels: theirs, (num_discriminator_steps * local batch,), where training uses labels. While D warms up, G waits.
    With `gan.share_fakes` G's step goes on with the fakes of D's last one, as most published code does.
    """
    num = gan.num_discriminator_steps
    batches_of_labels = [None] * num if labels is None else labels.chunk(num)
    moves_generator = gan.images_seen + num * gan.batch_size > gan.warmup_images
    for number, (batch, batch_labels) in enumerate(zip(real.chunk(num), batches_of_labels, strict=True)):
        shared = gan.share_fakes and moves_generator and number == num - 1
        fakes = update_discriminator(gan, batch, batch_labels, with_graph=shared)
    if moves_generator:
        update_generator(gan, batch, batch_labels, fakes if gan.share_fakes else None)


def update_discriminator(gan: GAN, real: Tensor, labels: Tensor | None = None, with_graph: bool = False) -> list[Fakes]:
    """One step of D: mean loss plus mean penalties on real samples and on fakes that carry no graph to G.

    Returns the fakes, with their graph where G's step will share them.
    """
    latents = gan.draw_latents("noise/discriminator", gan.d_steps, labels)
    augmented = gan.augmentation("discriminator", gan.d_steps)
    told = gan.told_batch()
    fakes = []
    for part in gan.parts():
        given = latents[part]
        codes = gan.codes_of(given)
        with torch.set_grad_enabled(with_graph):
            fakes.append(Fakes(given, gan.generate(given)))
        fake_part = gan.pack(fakes[-1].samples.detach())
        real_part = gan.pack(real[part])
        passes = gan.passes(codes, augmented)
        # The penalty first: the loss then shares its passes through D.
        penalty = gan.penalty(passes, real_part, fake_part, part)
        told_part = [] if told is None else [told[0][part]]
        real_outputs, fake_outputs, *told_outputs = passes.outputs(real_part, fake_part, *told_part)
        real_logits, fake_logits = passes.logits(real_part, fake_part)
        loss = gan.adversarial_loss.discriminator(real_logits, fake_logits).mean()
        if told is None:
            term = gan.discriminator_term(real_outputs, None if labels is None else labels[part], fake_outputs, codes)
        else:
            term = gan.conditioning.told_term(told_outputs[0], told[1][part]).mean()
        gan.discriminator_player.backward(total(loss, penalty, term), gan)
        gan.record("loss/discriminator", loss)
        gan.record("logits/real", real_logits)
        gan.record("logits/fake", fake_logits)
        gan.record("discriminator/accuracy", real_logits > fake_logits)
        if gan.penalties:  # of a lazy one 0 where it is not taken: the mean is what it weighs
            gan.record("loss/penalty", loss.new_zeros(()) if penalty is None else penalty)
        if term is not None:
            gan.record("loss/discriminator_term", term)
        gan.note(real_logits, fake_logits)
    gan.discriminator_player.step(gan)
    if gan.weight_clip is not None:
        gan.discriminator_player.clip_weights(gan.weight_clip)
    gan.observe()
    gan.d_steps += 1
    gan.images_seen += gan.batch_size
    return fakes


def update_generator(
    gan: GAN, real: Tensor, labels: Tensor | None = None, fakes: Sequence[Fakes] | None = None
) -> None:
    """One step of G; D only passes the gradient on: backward() is asked for G's gradients alone.

    real: a batch for the losses that compare fakes with it. fakes: of D's step; None draws new ones, so that pairs of
    real and fake are independent of those that D has learned from.
    """
    latents = gan.draw_latents("noise/generator", gan.g_steps, labels) if fakes is None else None
    augmented = gan.augmentation("generator", gan.g_steps)
    for number, part in enumerate(gan.parts()):
        if latents is not None:
            given = latents[part]
            fake = gan.generate(given)
        else:
            assert fakes is not None
            given, fake = fakes[number]
        codes = gan.codes_of(given)
        seen: tuple[Tensor, ...] = ()
        if gan.adversarial_loss.generator_sees_real:
            with torch.no_grad():
                seen = (gan.read(gan.judge(gan.pack(real[part]), codes, augmented), codes),)
        outputs = gan.judge(gan.pack(fake), codes, augmented)
        loss = gan.adversarial_loss.generator(*seen, gan.read(outputs, codes)).mean()
        term = gan.generator_term(outputs, given, fake)
        gan.generator_player.backward(total(loss, term), gan)
        gan.record("loss/generator", loss)
        if term is not None:
            gan.record("loss/generator_term", term)
    gan.generator_player.step(gan)
    gan.g_steps += 1


def total(loss: Tensor, *more: Tensor | None) -> Tensor:
    """The loss and those of the others that there are."""
    for one in more:
        if one is not None:
            loss = loss + one
    return loss
