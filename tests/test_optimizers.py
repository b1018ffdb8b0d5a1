"""Optimizers against the update rules of their papers, one number at a time."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

from gan_lab.optimizers import adam, lr_factor, rmsprop, unique_parameters

START = [1.0, -2.0, 0.5]
GRADIENTS = [[0.5, -1.0, 0.0], [0.25, 3.0, -1e-3], [-2.0, 0.1, 4.0]]
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])


def after_three_steps(make, dtype: torch.dtype, **options) -> list[float]:
    parameter = nn.Parameter(torch.tensor(START, dtype=dtype))
    optimizer = make([parameter], **options)
    for gradient in GRADIENTS:
        parameter.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
    return parameter.tolist()


@DTYPES
@pytest.mark.parametrize("betas", [None, (0.0, 0.9), (0.9, 0.999)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adam_takes_the_papers_steps(dtype, tolerance, betas, weight_decay):
    """Kingma & Ba 2015, algorithm 1."""
    beta1, beta2 = betas or (0.5, 0.999)
    expected = []
    for x, gradients in zip(START, zip(*GRADIENTS, strict=True), strict=True):
        m = v = 0.0
        for t, g in enumerate(gradients, start=1):
            g += weight_decay * x
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g * g
            x -= 0.1 * (m / (1 - beta1**t)) / (math.sqrt(v / (1 - beta2**t)) + 1e-8)
        expected.append(x)
    options = {} if betas is None else {"betas": betas}
    result = after_three_steps(adam, dtype, lr=0.1, weight_decay=weight_decay, **options)

    assert result == pytest.approx(expected, rel=tolerance, abs=tolerance)


@DTYPES
@pytest.mark.parametrize("alpha", [None, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_rmsprop_takes_the_steps_of_its_formula(dtype, tolerance, alpha, weight_decay):
    """v <- a v + (1 - a) g^2, x <- x - lr g / (sqrt(v) + eps), not centred, no momentum."""
    a = 0.99 if alpha is None else alpha
    expected = []
    for x, gradients in zip(START, zip(*GRADIENTS, strict=True), strict=True):
        v = 0.0
        for g in gradients:
            g += weight_decay * x
            v = a * v + (1 - a) * g * g
            x -= 0.1 * g / (math.sqrt(v) + 1e-8)
        expected.append(x)
    options = {} if alpha is None else {"alpha": alpha}
    result = after_three_steps(rmsprop, dtype, lr=0.1, weight_decay=weight_decay, **options)

    assert result == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_eps_is_added_outside_of_the_root():
    for make in (adam, rmsprop):
        parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = make([parameter], lr=1.0, eps=1.0)
        parameter.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
        root = 1.0 if make is adam else 0.1  # sqrt((1 - 0.99) * 1)
        assert parameter.item() == pytest.approx(-1 / (root + 1.0), rel=1e-12)


def test_adam_on_the_cpu_is_one_fused_kernel_that_can_skip_a_step():
    parameter = nn.Parameter(torch.ones(3))
    optimizer = adam([parameter], lr=0.1)
    assert optimizer.param_groups[0]["fused"] is True

    parameter.grad = torch.ones(3)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert parameter.tolist() == [1.0, 1.0, 1.0]
    optimizer.found_inf = torch.zeros(())
    optimizer.step()
    assert parameter.tolist() == pytest.approx([0.9, 0.9, 0.9])


def parameters_of(seed: int) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(3, 2, 4, 4, generator=generator).contiguous(memory_format=torch.channels_last)
    return [nn.Parameter(images), *(nn.Parameter(torch.randn(n, generator=generator)) for n in (5, 1))]


def ours_and_torchs(**settings) -> tuple[torch.optim.Adam, torch.optim.Adam]:
    settings = {"lr": 0.1, "betas": (0.5, 0.999), **settings}
    return adam(parameters_of(0), **settings), torch.optim.Adam(parameters_of(0), fused=True, **settings)


def take(optimizer: torch.optim.Optimizer, step: int, without: int | None = None) -> None:
    """A step with gradients that depend on its number; without: of one parameter."""
    generator = torch.Generator().manual_seed(step)
    for number, parameter in enumerate(optimizer.param_groups[0]["params"]):
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if number == without else torch.empty_like(parameter).copy_(gradient)
    optimizer.step()


def assert_equal_optimizers(one: torch.optim.Optimizer, other: torch.optim.Optimizer) -> None:
    pairs = zip(one.param_groups[0]["params"], other.param_groups[0]["params"], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    states, other_states = one.state_dict()["state"], other.state_dict()["state"]
    assert states.keys() == other_states.keys()
    for number, state in states.items():
        assert state.keys() == other_states[number].keys()
        assert all(torch.equal(state[key], other_states[number][key]) for key in state), number


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adams_kept_lists_give_torchs_own_steps_exactly(weight_decay, monkeypatch):
    one, other = ours_and_torchs(betas=(0.5, 0.9), eps=1e-3, weight_decay=weight_decay)
    own_steps: list[int] = []
    torchs_step = torch.optim.Adam.step

    def counted(self, closure=None):
        own_steps.append(step)
        return torchs_step(self, closure)

    counted.hooked = True
    for step in range(13):
        for optimizer in (one, other):
            if step == 3:  # what a schedule changes
                optimizer.param_groups[0].update(lr=0.01, betas=(0.2, 0.99))
            if step == 6:  # as when a run is resumed
                optimizer.load_state_dict(deepcopy(optimizer.state_dict()))
            if step == 10:  # as a Trainer moves it
                for state in optimizer.state.values():
                    state.update(exp_avg=state["exp_avg"].clone(), exp_avg_sq=state["exp_avg_sq"].clone())
            if step == 11:
                optimizer.found_inf = torch.ones(())
            if step == 12:
                optimizer.found_inf = torch.zeros(())
            with monkeypatch.context() as patch:
                if optimizer is one:
                    patch.setattr(torch.optim.Adam, "step", counted)
                take(optimizer, step, without=1 if step == 8 else None)
        assert_equal_optimizers(one, other)

    assert len({state["step"].untyped_storage().data_ptr() for state in one.state.values()}) == 1  # counted at once
    assert own_steps == [0, 6, 8, 10]  # the first, after loading, without a gradient, after moving


def test_adam_leaves_to_torch_what_it_does_not_know():
    one, other = ours_and_torchs()
    for optimizer in (one, other):
        take(optimizer, 0)
        take(optimizer, 1, without=2)
        optimizer.add_param_group({"params": parameters_of(1), "lr": 0.3})
        for parameter in optimizer.param_groups[1]["params"]:
            parameter.grad = torch.ones_like(parameter)
        take(optimizer, 2)
        assert optimizer.step(lambda: 5.0) == 5.0
        take(optimizer, 3)
    assert_equal_optimizers(one, other)
    for a, b in zip(one.param_groups[1]["params"], other.param_groups[1]["params"], strict=True):
        assert torch.equal(a, b)


def test_adam_unscales_gradients_as_a_scaler_asks():
    one, other = ours_and_torchs()
    for optimizer in (one, other):
        take(optimizer, 0)
        optimizer.grad_scale = torch.tensor(8.0)
        take(optimizer, 1)
    assert_equal_optimizers(one, other)


def test_a_first_step_without_a_gradient_keeps_no_lists():
    one, other = ours_and_torchs()
    for optimizer in (one, other):
        take(optimizer, 0, without=0)
        take(optimizer, 1)
        take(optimizer, 2)
    assert_equal_optimizers(one, other)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [  # at 0, 1/4, 1/2, 3/4, 1 and 2 budgets, and before the beginning
        ("constant", [1, 1, 1, 1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25, 0, 0, 1]),
        ("cosine", [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0, 0, 1]),
    ],
)
def test_schedules(schedule, values):
    result = [lr_factor(schedule, progress) for progress in (0, 0.25, 0.5, 0.75, 1, 2, -1)]

    assert result == pytest.approx(values, abs=1e-15)


def test_shared_parameters_are_listed_once_and_frozen_ones_not_at_all():
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    other.weight = one.weight
    one.bias.requires_grad_(False)
    listed = unique_parameters([one, other, nn.Sequential(one, other)])

    assert [id(parameter) for parameter in listed] == [id(one.weight), id(other.bias)]
    assert unique_parameters([]) == []
