"""The exercises of notebook 03: which steps to visit, and three ways to take one."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise
from course_utils.checks.nb01_noising import add_noise
from course_utils.checks.nb03_slerp import SLERP


def trailing(steps, num_train_steps):
    """The table of trailing steps, from noise down, (steps,) long."""
    return (num_train_steps - torch.arange(steps).double() * num_train_steps / steps).round().long() - 1


def _leading(steps, num_train_steps):
    return (torch.arange(steps) * (num_train_steps // steps)).flip(0)


SPACING = Exercise(
    reference=trailing,
    cases=lambda g, i: ((7, 10, 30, 3, 50)[i], (1000, 1000, 1000, 400, 1000)[i]),
    mistakes=(
        ("these are the leading steps: they begin a stride early and miss T - 1, the step of pure noise.", _leading),
        (
            "the right numbers, but the picture's end comes first: sampling goes from noise down.",
            lambda s, n: trailing(s, n).flip(0),
        ),
        (
            "every entry is one too large: steps run from 0 to T - 1, so the first is T - 1.",
            lambda s, n: trailing(s, n) + 1,
        ),
        (
            "the stride T / S is rounded before it is used: keep it a fraction, and round each entry.",
            lambda s, n: n - torch.arange(s) * (n // s) - 1,
        ),
        (
            "these are linspace's steps: even from T - 1 to 0, both ends included.",
            lambda s, n: torch.linspace(n - 1, 0, s, dtype=torch.float64).round().long(),
        ),
        (
            "the entries are cut off, not rounded: .round() before .long().",
            lambda s, n: (n - torch.arange(s).double() * n / s).long() - 1,
        ),
    ),
    hints=(
        "Start at T and go down in strides of T / S; each stride is visited at its upper end.",
        "i = torch.arange(steps) counts the visits; the stride is num_train_steps / steps, not rounded.",
        "(num_train_steps - torch.arange(steps).double() * num_train_steps / steps).round().long() - 1.",
    ),
)


def levels(g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha_bar at a step and, larger, at an earlier one: two float32 numbers of shape ()."""
    alpha_bar_s = torch.rand((), generator=g) * 0.25 + 0.65
    return alpha_bar_s * (torch.rand((), generator=g) * 0.5 + 0.25), alpha_bar_s


def pictures(g: torch.Generator, i: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x0 in [-1, 1] and noise, both (2 + i, 3, 8, 8)."""
    x0 = torch.rand(2 + i, 3, 8, 8, generator=g) * 2 - 1
    return x0, torch.randn(x0.shape, generator=g)


def posterior_case(g: torch.Generator, i: int) -> tuple:
    """(x0, xt, alpha_bar_t, alpha_bar_s)."""
    (x0, eps), (at, as_) = pictures(g, i), levels(g)
    return x0, add_noise(x0, eps, at.expand(len(x0))), at, as_


def posterior(x0, xt, at, as_):
    """Mean and variance of x_s given x0 and xt."""
    alpha = at / as_
    mean = (as_.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - as_) * xt) / (1 - at)
    return mean, (1 - as_) * (1 - alpha) / (1 - at)


def _with_mean(mean):
    """A mistaken posterior whose mean is mean(x0, xt, at, as_, alpha)."""
    return lambda x0, xt, at, as_: (mean(x0, xt, at, as_, at / as_), posterior(x0, xt, at, as_)[1])


def _with_variance(variance):
    """A mistaken posterior whose variance is variance(at, as_, alpha)."""
    return lambda x0, xt, at, as_: (posterior(x0, xt, at, as_)[0], variance(at, as_, at / as_))


POSTERIOR = Exercise(
    reference=posterior,
    cases=posterior_case,
    mistakes=(
        (
            "alpha is upside down: it is alpha_bar_t / alpha_bar_s, the share kept on the way, smaller than 1.",
            lambda x0, xt, at, as_: (
                ((as_.sqrt() * (1 - as_ / at) * x0 + (as_ / at).sqrt() * (1 - as_) * xt) / (1 - at)),
                (1 - as_) * (1 - as_ / at) / (1 - at),
            ),
        ),
        (
            "the variance is right as a spread: return sigma squared, without the square root.",
            _with_variance(lambda at, as_, a: ((1 - as_) * (1 - a) / (1 - at)).sqrt()),
        ),
        (
            "this variance is 1 - alpha, that of the step forward: x0 is known here too, which makes it smaller.",
            _with_variance(lambda at, as_, a: 1 - a),
        ),
        (
            "in the mean, x0 and xt have exchanged their factors: far back, the term in x0 should win.",
            _with_mean(lambda x0, xt, at, as_, a: (as_.sqrt() * (1 - a) * xt + a.sqrt() * (1 - as_) * x0) / (1 - at)),
        ),
        (
            "in the mean, the factors lack their square roots: sqrt(alpha_bar_s) and sqrt(alpha).",
            _with_mean(lambda x0, xt, at, as_, a: (as_ * (1 - a) * x0 + a * (1 - as_) * xt) / (1 - at)),
        ),
        (
            "the mean is not divided by 1 - alpha_bar_t: the two precisions have to add up.",
            _with_mean(lambda x0, xt, at, as_, a: as_.sqrt() * (1 - a) * x0 + a.sqrt() * (1 - as_) * xt),
        ),
        ("mean and variance have changed places: return (mean, variance).", lambda *args: posterior(*args)[::-1]),
    ),
    hints=(
        "First alpha, the share of power kept between s and t; then two terms for the mean, one for the variance.",
        "alpha = alpha_bar_t / alpha_bar_s; every term is divided by 1 - alpha_bar_t.",
        "mean = (alpha_bar_s.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - alpha_bar_s) * xt) / (1 - alpha_bar_t)"
        "; variance = (1 - alpha_bar_s) * (1 - alpha) / (1 - alpha_bar_t).",
    ),
)


def ddim_case(g: torch.Generator, i: int) -> tuple:
    """(xt, eps_pred, alpha_bar_t, alpha_bar_s, eta, z): a guess of the noise, never the noise itself."""
    (x0, eps), (at, as_) = pictures(g, i), levels(g)
    xt = add_noise(x0, eps, at.expand(len(x0)))
    guess, z = eps + 0.3 * torch.randn(eps.shape, generator=g), torch.randn(eps.shape, generator=g)
    return xt, guess, at, as_, (0.3, 0.0, 1.0, 0.7, 0.5)[i], z


def ddim_step(xt, eps, at, as_, eta, z, fade=True, give=True):
    """One step of DDIM; `fade` and `give` leave out what learners leave out."""
    x0 = (xt - (1 - at).sqrt() * eps) / (at.sqrt() if fade else 1)
    sigma = eta * ((1 - as_) / (1 - at) * (1 - at / as_)).sqrt()
    return as_.sqrt() * x0 + (1 - as_ - (sigma**2 if give else 0)).sqrt() * eps + sigma * z


DDIM = Exercise(
    reference=ddim_step,
    cases=ddim_case,
    tolerance=1e-3,
    mistakes=(
        (
            "the old noise does not give way: its factor is sqrt(1 - alpha_bar_s - sigma ** 2), or the noise grows.",
            lambda *args: ddim_step(*args, give=False),
        ),
        (
            "the guessed picture is still faint: divide by sqrt(alpha_bar_t).",
            lambda *args: ddim_step(*args, fade=False),
        ),
        (
            "fresh noise is missing: sigma * z comes on top.",
            lambda xt, e, at, as_, eta, z: ddim_step(xt, e, at, as_, eta, torch.zeros_like(z)),
        ),
        (
            "eta is not used: it scales sigma, 0 for none and 1 for as much as DDPM.",
            lambda xt, e, at, as_, eta, z: ddim_step(xt, e, at, as_, 1.0, z),
        ),
        ("eta is taken as 0: sigma is missing.", lambda xt, e, at, as_, eta, z: ddim_step(xt, e, at, as_, 0.0, z)),
        (
            "the picture is mixed for step t, where we are; use alpha_bar_s, where we go.",
            lambda xt, e, at, as_, eta, z: (
                ddim_step(xt, e, at, as_, eta, z) + (at.sqrt() - as_.sqrt()) * (xt - (1 - at).sqrt() * e) / at.sqrt()
            ),
        ),
        (
            "this is the guessed clean picture: mix it with noise again, in the proportions of step s.",
            lambda xt, e, at, as_, eta, z: (xt - (1 - at).sqrt() * e) / at.sqrt(),
        ),
    ),
    hints=(
        "Take xt apart into picture and noise, then mix the two again for step s.",
        "x0 = (xt - sqrt(1 - alpha_bar_t) * eps_pred) / sqrt(alpha_bar_t); "
        "sigma = eta * sqrt((1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)).",
        "return alpha_bar_s.sqrt() * x0 + (1 - alpha_bar_s - sigma ** 2).sqrt() * eps_pred + sigma * z.",
    ),
)


def multistep_case(g: torch.Generator, i: int) -> tuple:
    """(x0, x0_before, lambda_before, lambda_now, lambda_next): uneven steps of a rising clock."""
    x0, other = pictures(g, i)
    steps = torch.rand(3, generator=g) * 1.5 + torch.tensor([-3.0, 0.3, 0.3])
    return x0, x0 + 0.3 * other, *steps.cumsum(0).unbind()


def look_ahead(x0, before, l0, l1, l2, scale=0.5):
    """The picture that DPM-Solver++ 2M aims at."""
    return x0 + scale * (l2 - l1) / (l1 - l0) * (x0 - before)


MULTISTEP = Exercise(
    reference=look_ahead,
    cases=multistep_case,
    tolerance=1e-3,
    mistakes=(
        (
            "the 2 is missing: aim at the middle of the step, not at its end.",
            lambda *args: look_ahead(*args, scale=1.0),
        ),
        (
            "right up to sign of the move: x0 has been going from x0_before to x0, and it goes on that way.",
            lambda *args: look_ahead(*args, scale=-0.5),
        ),
        (
            "the ratio of the steps is upside down: a long step ahead needs a long look, h / h_before.",
            lambda x0, b, l0, l1, l2: x0 + (l1 - l0) / (2 * (l2 - l1)) * (x0 - b),
        ),
        ("the steps are taken as equally long: multiply by h / h_before.", lambda x0, b, l0, l1, l2: x0 + (x0 - b) / 2),
        (
            "this starts from x0_before; the look ahead starts from x0.",
            lambda x0, b, l0, l1, l2: b + (l2 - l1) / (2 * (l1 - l0)) * (x0 - b),
        ),
        ("this is x0 itself, DDIM: add the move.", lambda x0, b, *clock: x0 + 0),
    ),
    hints=(
        "A straight line through the last two guesses, read half a step ahead.",
        "h = lambda_next - lambda_now, h_before = lambda_now - lambda_before; the guess moves by "
        "(x0 - x0_before) / h_before per unit of the clock.",
        "return x0 + h / (2 * h_before) * (x0 - x0_before).",
    ),
)


EXERCISES = {
    "03-spacing": SPACING,
    "03-posterior": POSTERIOR,
    "03-ddim": DDIM,
    "03-multistep": MULTISTEP,
    "03-slerp": SLERP,
}
