"""accelerator.compile: the compiled training step is the one without compilation, up to rounding."""

import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tiny import BATCH_SIZE, cycle_of, ready, tiny_gan
from torch import Tensor, nn

from gan_lab.compiled import calls_of
from gan_lab.losses import relativistic
from gan_lab.module import GAN
from gan_lab.penalties import r1, wgan_gp

# Dynamo looks at inputs that are fakes of G; it hides this warning itself unless warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
HAS_COMPILER = any(map(shutil.which, ("g++", "clang++")))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """torch.compile with everything but code generation, which takes ten seconds a network; what was compiled."""
    compiled: list[object] = []
    compile_with = torch.compile

    def capture(call: object, *, dynamic: bool, options: dict[str, object]) -> object:
        compiled.append(call)
        return compile_with(call, dynamic=dynamic, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", capture)
    return compiled


def trained(how: str, cycles: int = 3, **settings: object) -> GAN:
    gan = ready(tiny_gan(compile=how, optimizer=partial(torch.optim.SGD, lr=0.02), **settings))
    for number in range(cycles):
        gan.training_step(cycle_of(gan, seed=number), number)
    return gan


def assert_equal_training(eager: GAN, compiled: GAN) -> None:
    for name, value in eager.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], value, rtol=1e-5, atol=1e-6, msg=name)
    one, other = eager.take_metrics(), compiled.take_metrics()
    assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


METHODS = {
    "vanilla": {},
    "relativistic": {"adversarial_loss": relativistic()},
    "dropout": {"discriminator": {"dropout": 0.3, "norm": "layer"}},
    "dropout and batch norm": {"discriminator": {"dropout": 0.3, "norm": "batch"}},
    "batch norm": {"generator_norm": "batch", "discriminator": {"norm": "batch"}},
    "r1": {"penalties": [partial(r1, weight=1.0)]},
    "wgan_gp": {"penalties": [partial(wgan_gp, weight=1.0)], "num_discriminator_steps": 2},
    "accumulated": {"optimization": {"accumulate": 2}},
}


@pytest.mark.parametrize("method", METHODS)
def test_captured_passes_train_alike(captured, method):
    assert_equal_training(trained("none", **METHODS[method]), trained("inductor", **METHODS[method]))
    assert len(captured) == (2 if "penalties" in METHODS[method] else 3)


@pytest.mark.skipif(not HAS_COMPILER, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("norm", ["none", "batch"])  # with the latter real and fake go through D apart
def test_generated_code_trains_alike(norm):
    settings = {"discriminator": {"dropout": 0.3, "norm": norm}, "generator_norm": "batch"}
    assert_equal_training(trained("none", **settings), trained("inductor", **settings))


def test_the_discriminators_weights_ask_for_no_gradient_in_the_generators_step(captured):
    gan = ready(tiny_gan(compile="inductor"))
    fake = gan.generate(torch.randn(BATCH_SIZE, 4))
    gan.judge(fake).sum().backward()
    assert all(parameter.grad is None for parameter in gan.discriminator.parameters())
    assert all(parameter.grad is not None for parameter in gan.generator.parameters())


def test_penalties_see_the_discriminator_as_it_is(captured):
    discriminator = nn.Linear(2, 1)
    calls = calls_of(nn.Linear(3, 2), discriminator, "inductor", has_penalties=True)
    assert calls.judge is discriminator
    assert discriminator not in captured


def test_nothing_is_compiled_unless_asked_for(captured):
    generator, discriminator = nn.Linear(3, 2), nn.Linear(2, 1)
    calls = calls_of(generator, discriminator, "none", has_penalties=False)
    assert (calls.generate, calls.judge, calls.judge_frozen) == (generator, discriminator, discriminator)
    assert captured == []


def test_cuda_graphs_are_asked_for_and_each_cycle_is_announced(monkeypatch):
    asked: list[dict[str, object]] = []

    def compile_call(call: object, **settings: object) -> object:
        asked.append(settings)
        return call

    monkeypatch.setattr(torch, "compile", compile_call)
    announced: list[int] = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: announced.append(1))
    gan = ready(tiny_gan(compile="cuda_graphs"))
    assert [one["options"]["triton.cudagraphs"] for one in asked] == [True] * 3
    for number in range(2):
        gan.training_step(cycle_of(gan, seed=number), number)
    assert announced == [1, 1]
    assert [one["options"]["triton.cudagraphs"] for one in asked] == [True] * 3  # nothing is compiled again


def test_the_state_has_the_same_names_as_without(captured):
    plain, compiled = (ready(tiny_gan(compile=how)) for how in ("none", "inductor"))
    assert list(plain.state_dict()) == list(compiled.state_dict())
    assert isinstance(next(iter(compiled.state_dict().values())), Tensor)
    assert SimpleNamespace(**compiled.state()).generator.keys() == compiled.generator.state_dict().keys()
