"""scripts/benchmark.py: that its loops train what gan_lab trains, and that it runs."""

import json
import subprocess
import sys
from collections import Counter
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import benchmark  # noqa: E402
import loops  # noqa: E402

SMALL = ("model.width=8", "batch_size=8")


@pytest.fixture(scope="module")
def fashion_mnist(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("data")
    assert benchmark.write_fashion_mnist(root, 64) == "noise of Fashion-MNIST's shape"
    return f"dataset.root={root}"


@pytest.mark.parametrize("name", benchmark.WORKLOADS)
@pytest.mark.parametrize("steps", [loops.plain_steps, loops.tight_steps])
def test_both_players_move_in_every_loop(name, steps, fashion_mnist):
    overrides = [*benchmark.WORKLOADS[name].overrides, *SMALL]
    overrides += [fashion_mnist] if "dataset=fashion_mnist" in overrides else []
    parts = loops.build(overrides, channels_last=False)
    before = [parameter.clone() for parameter in (*parts.generator.parameters(), *parts.discriminator.parameters())]
    running, images = steps(parts), 0
    while images < 8 * parts.config.loss.num_discriminator_steps:
        images += next(running)
    after = [*parts.generator.parameters(), *parts.discriminator.parameters()]
    for number, (one, other) in enumerate(zip(before, after, strict=True)):
        assert torch.isfinite(other).all()
        if one.ndim > 1:  # some biases have no gradient: a constant added to every logit, or before a norm
            assert not torch.equal(one, other), number


@pytest.mark.parametrize("name", ["mlp", "mlp_wgan_gp", "quickstart", "toy_grid"])
def test_the_loops_and_the_training_step_have_the_same_gradients(name, fashion_mnist, monkeypatch):
    """One step of D with the weights, the data, the fakes and the random numbers of all three made equal."""
    from tiny import ready

    from gan_lab import config as configuration
    from gan_lab.data import as_training_input
    from gan_lab.procedures.noise_to_data import update_discriminator

    overrides = [*benchmark.WORKLOADS[name].overrides, "model.width=8", "batch_size=8", "accelerator=cpu"]
    overrides += [fashion_mnist] if "dataset=fashion_mnist" in overrides else ["model.depth=2"]
    overrides += ["model.discriminator.dropout=0"] if "mlp" in name else []
    overrides += ["loss.num_discriminator_steps=1", "model.generator.norm=none", "optimizer.schedule=constant"]
    overrides += ["accelerator.precision=fp32"]  # as the plain loop
    fresh = [loops.build(overrides, channels_last=False) for _ in range(3)]
    whole = torch.full((8,), 3)  # every loop's batch: the same sample eight times

    def gradients(discriminator, run):
        found = []

        def hook(optimizer, *_):
            if not found and next(iter(optimizer.param_groups[0]["params"])) is next(discriminator.parameters()):
                found.extend(parameter.grad.clone() for parameter in discriminator.parameters())

        handle = register_optimizer_step_pre_hook(hook)
        run()
        handle.remove()
        return found

    monkeypatch.setattr(torch, "randint", lambda *_, **__: whole)

    def constant(value: float):
        return lambda *shape, **_: torch.full(shape if isinstance(shape[0], int) else shape[0], value)

    monkeypatch.setattr(torch, "rand", constant(0.3))
    draws = torch.linspace(-1, 1, 200_000)
    monkeypatch.setattr(
        torch, "randn", lambda *shape, **_: draws[: constant(0)(*shape).numel()].view(constant(0)(*shape).shape).clone()
    )
    results = []
    for loop, built in zip((loops.plain_steps, loops.tight_steps), fresh, strict=False):
        parts = built._replace(samples=built.samples[3:4].expand(64, *built.samples.shape[1:]).contiguous())
        if loop is loops.plain_steps and "dataset=fashion_mnist" in overrides:
            from torchvision.datasets import FashionMNIST

            monkeypatch.setattr(FashionMNIST, "__len__", lambda self: 8)
            item = FashionMNIST.__getitem__
            monkeypatch.setattr(FashionMNIST, "__getitem__", lambda self, index, item=item: item(self, 3))
        results.append(gradients(parts.discriminator, lambda loop=loop, parts=parts: next(loop(parts))))
    gan = configuration.build_gan(parts.config, tuple(parts.samples.shape[1:]))
    gan.generator.load_state_dict(fresh[2].generator.state_dict())
    gan.discriminator.load_state_dict(fresh[2].discriminator.state_dict())
    ready(gan)
    real = as_training_input(parts.samples[whole % len(parts.samples)])
    results.append(gradients(gan.discriminator, lambda: update_discriminator(gan, real)))
    plain, tight, ours = results
    assert len(plain) == len(tight) == len(ours) > 0
    for one, two, three in zip(plain, tight, ours, strict=True):
        torch.testing.assert_close(two, three, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one, three, rtol=1e-4, atol=1e-6)


def test_the_script_measures_and_prints(tmp_path):
    out = tmp_path / "results.jsonl"
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "training", "--workloads", "toy_grid"]
    command += ["--rounds", "1", "--scale", "0.02", "--threads", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(text) for text in out.read_text().splitlines()]
    assert set(line["images_per_second"]) == {"plain", "tight", "gan_lab"}
    assert set(line["event_seconds"]) == set(line["share_of_time"]) == {"evaluation", "checkpoint", "samples"}
    assert 0 < line["share_of_gemm_peak"] < 1.5
    table = done.stdout.strip().splitlines()
    assert table[0].count("|") == table[2].count("|")
    assert table[2].startswith("| `toy_grid` |")


def test_each_program_takes_its_turn_equally_often_after_each_of_the_others():
    after = Counter(zip(benchmark.TURNS, benchmark.TURNS[1:] + benchmark.TURNS[:1], strict=True))

    assert after == dict.fromkeys(permutations(benchmark.PROGRAMS, 2), 3)
