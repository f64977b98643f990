"""Rectified flow: steps equal diffusers' scheduler, straight lines need one step, and errors fall as Euler's do."""

import pytest
import torch

from course_utils.errors import InputError
from course_utils.generator.flow import NUM_STEPS, Flow, euler, flow_loss, logit_normal, straight
from course_utils.generator.samplers import sample
from tests.test_peers_samplers import TinyNet, noise, walk


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ------------------------------------------------------------------ diffusers
def scheduler(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=shift)


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for state, xt in zip(ours, theirs, strict=True):
        assert (state.xt - xt).abs().max() < 1e-6 * max(1.0, float(xt.abs().max())), state.step


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 20, 28])
def test_steps_as_flux_takes_them(steps, shift):
    """diffusers' Flux pipeline gives its scheduler even times, from 1 to 1 / steps, before they are shifted."""
    theirs = scheduler(shift)
    theirs.set_timesteps(sigmas=[1 - k / steps for k in range(steps)])
    assert (Flow(shift).times(steps) - theirs.sigmas).abs().max() < 1e-6
    net, xT = TinyNet(0), noise()
    assert_same(list(euler(net, xT, Flow(shift), steps)), walk(theirs, net, xT, None))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_steps_of_its_own_table(shift):
    theirs = scheduler(shift)
    theirs.set_timesteps(20)
    net, xT = TinyNet(1), noise(1)
    assert_same(list(euler(net, xT, times=theirs.sigmas)), walk(theirs, net, xT, None))
    assert theirs.sigmas[-2] < 0.01, "its last step buys next to nothing"


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_noised_pictures(shift):
    theirs, x0, eps = scheduler(shift), noise(2), noise(3)
    theirs.set_timesteps(10)
    t = theirs.timesteps[[2, 7]]
    assert (straight(x0, eps, t / NUM_STEPS) - theirs.scale_noise(x0, t, eps)).abs().max() < 1e-6


def test_times_as_diffusers_draws_them():
    """In distribution: the same share of times lies below each tenth."""
    from diffusers.training_utils import compute_density_for_timestep_sampling

    for mean, std in ((0.0, 1.0), (0.5, 0.7)):
        theirs = compute_density_for_timestep_sampling("logit_normal", 20_000, mean, std, generator=seeded(1))
        ours = logit_normal(20_000, mean, std, seeded(2))
        assert ours.min() > 0 and ours.max() < 1
        levels = torch.linspace(0.1, 0.9, 9)
        assert (torch.quantile(ours, levels) - torch.quantile(theirs, levels)).abs().max() < 0.015


# ------------------------------------------------------------------ lines and distributions
def test_the_ends_of_the_line_are_picture_and_noise():
    x0, eps = noise(0), noise(1)
    assert torch.equal(straight(x0, eps, torch.zeros(2)), x0) and torch.equal(straight(x0, eps, torch.ones(2)), eps)
    assert torch.allclose(straight(x0, eps, torch.tensor([0.25, 0.5]))[1], (x0[1] + eps[1]) / 2)


def test_one_step_is_enough_where_the_way_is_straight():
    x0, eps = noise(0), noise(1)
    for steps in (1, 7):
        *_, last = euler(lambda xt, t: eps - x0, eps, Flow(3.0), steps)
        assert torch.allclose(last.xt, x0, atol=1e-5) and torch.allclose(last.x0, x0, atol=1e-5)


def gaussian(mean, std):
    """The best direction (xt, t) -> E[eps - x0 | xt] for data that are Gaussian, and what the noise xT becomes."""

    def direction(xt, t):
        t = (t / NUM_STEPS).reshape(-1, 1)
        variance = (1 - t) ** 2 * std**2 + t**2
        return -mean + (t - (1 - t) * std**2) / variance * (xt - (1 - t) * mean)

    return direction, lambda xT: mean + std * xT


def test_the_error_halves_with_twice_the_steps():
    direction, exact = gaussian(2.0, 0.3)
    xT = noise(0, (500, 1)).double()
    errors = [float((sample(euler, direction, xT, Flow(), steps=n) - exact(xT)).abs().mean()) for n in (16, 32, 64)]
    assert all(1.8 < a / b < 2.2 for a, b in zip(errors, errors[1:])), errors


def test_the_best_direction_has_the_least_loss():
    direction, _ = gaussian(2.0, 0.3)
    x0 = 2 + 0.3 * noise(0, (4000, 1))
    best = flow_loss(direction, x0, seeded(1))
    for scale, shift in ((0.9, 0), (1.1, 0), (1, 0.2), (1, -0.2)):
        assert flow_loss(lambda xt, t, a=scale, b=shift: a * direction(xt, t) + b, x0, seeded(1)) > best


def test_the_loss_is_of_the_direction():
    x0, seen = noise(0), {}

    def model(xt, t, word):
        seen.update(xt=xt, t=t, word=word)
        return torch.zeros_like(xt)

    t = torch.tensor([0.2, 0.9])
    loss = flow_loss(model, x0, seeded(4), t, word="pink")
    eps = torch.randn(x0.shape, generator=seeded(4))
    assert torch.allclose(seen["xt"], straight(x0, eps, t)) and torch.allclose(seen["t"], torch.tensor([200.0, 900.0]))
    assert seen["word"] == "pink" and torch.allclose(loss, (eps - x0).square().mean())
    assert flow_loss(model, x0, seeded(5), word="") == flow_loss(model, x0, seeded(5), word="")


# ------------------------------------------------------------------ bad input
def test_what_is_out_of_range_is_said():
    def run(*args, **options):
        return list(euler(TinyNet(0), *args, **options))

    for steps in (0, 1001, 2.5):
        with pytest.raises(InputError, match="steps"):
            run(noise(), Flow(), steps)
    for shift in (0, -1, float("nan"), "3"):
        with pytest.raises(InputError, match="shift"):
            run(noise(), Flow(shift))
    for times in ([1.0], [0.0, 1.0], [1.0, 1.0, 0.0], [1.2, 0.0], [1.0, -0.1], [[1.0, 0.0]], [1.0, float("nan")]):
        with pytest.raises(InputError, match="falls"):
            run(noise(), times=times)
    with pytest.raises(InputError, match="noise"):
        run(noise().long())


def test_states_count_and_know_their_time():
    states = list(euler(TinyNet(0), noise(), steps=4))
    assert [s.step for s in states] == [1, 2, 3, 4] and [s.t for s in states] == [1000, 750, 500, 250]
    assert torch.equal(states[-1].xt, sample(euler, TinyNet(0), noise(), Flow(), steps=4))
