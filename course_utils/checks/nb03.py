"""The exercises of notebook 03: two steps in code, two measurements, a rival solver and a broken run."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise
from course_utils.checks.nb01_noising import add_noise
from course_utils.checks.nb03_runs import BROKEN, ETA, HEUN, STEPS


# ------------------------------------------------------------------ one step of DDIM
def levels(g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha_bar at a step and, larger, at an earlier one: two float32 numbers of shape ()."""
    alpha_bar_s = torch.rand((), generator=g) * 0.25 + 0.65
    return alpha_bar_s * (torch.rand((), generator=g) * 0.5 + 0.25), alpha_bar_s


def pictures(g: torch.Generator, i: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x0 in [-1, 1] and noise, both (2 + i, 3, 8, 8)."""
    x0 = torch.rand(2 + i, 3, 8, 8, generator=g) * 2 - 1
    return x0, torch.randn(x0.shape, generator=g)


def ddim_case(g: torch.Generator, i: int) -> tuple:
    """(xt, eps_pred, alpha_bar_t, alpha_bar_s, eta, z): a guess of the noise, never the noise itself."""
    (x0, eps), (at, as_) = pictures(g, i), levels(g)
    xt = add_noise(x0, eps, at.expand(len(x0)))
    guess, z = eps + 0.3 * torch.randn(eps.shape, generator=g), torch.randn(eps.shape, generator=g)
    return xt, guess, at, as_, (0.3, 0.0, 1.0, 0.7, 0.5)[i], z


def posterior_sigma(at, as_):
    """The standard deviation of the posterior, DDIM's sigma at eta = 1."""
    return ((1 - as_) / (1 - at) * (1 - at / as_)).sqrt()


def ddim_step(xt, eps, at, as_, eta, z, fade=True, sigma=posterior_sigma, give=lambda sigma: sigma**2):
    """One step of DDIM; `fade`, `sigma` and `give` are what learners leave out or take for something else."""
    x0 = (xt - (1 - at).sqrt() * eps) / (at.sqrt() if fade else 1)
    fresh = eta * sigma(at, as_)
    return as_.sqrt() * x0 + (1 - as_ - give(fresh)).sqrt() * eps + fresh * z


def _root_over_eta(xt, eps, at, as_, eta, z):
    return ddim_step(xt, eps, at, as_, eta**0.5, z)


DDIM = Exercise(
    reference=ddim_step,
    cases=ddim_case,
    tolerance=1e-3,
    mistakes=(
        (
            "the old noise does not give way: its factor is sqrt(1 - alpha_bar_s - sigma ** 2), or the noise grows.",
            lambda *args: ddim_step(*args, give=lambda sigma: 0),
        ),
        (
            "the old noise gives up sigma, a standard deviation, where a variance is due: subtract sigma ** 2.",
            lambda *args: ddim_step(*args, give=lambda sigma: sigma),
        ),
        (
            "alpha is taken as alpha_bar_t: what is kept between s and t is the ratio alpha_bar_t / alpha_bar_s.",
            lambda *args: ddim_step(*args, sigma=lambda at, as_: ((1 - as_) / (1 - at) * (1 - at)).sqrt()),
        ),
        (
            "this sigma is the variance of section 1: take its square root.",
            lambda *args: ddim_step(*args, sigma=lambda at, as_: posterior_sigma(at, as_) ** 2),
        ),
        (
            "this sigma is that of the step forward, sqrt(1 - alpha): the ratio of the two 1 - alpha_bar is missing.",
            lambda *args: ddim_step(*args, sigma=lambda at, as_: (1 - at / as_).sqrt()),
        ),
        ("eta stands under the root: it scales sigma itself.", _root_over_eta),
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
        "The picture is (xt - sqrt(1 - alpha_bar_t) * eps_pred) / sqrt(alpha_bar_t). sigma is eta times the standard "
        "deviation of section 1, with alpha = alpha_bar_t / alpha_bar_s.",
        "Three terms: the picture times sqrt(alpha_bar_s), the old noise, and sigma * z. The squares of the two noise "
        "factors add up to 1 - alpha_bar_s: that gives the factor of the old noise.",
    ),
)


# ------------------------------------------------------------------ where DPM-Solver++ 2M aims
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
            "h / 2 * h_before multiplies by h_before: brackets around the divisor, h / (2 * h_before).",
            lambda x0, b, l0, l1, l2: x0 + (l2 - l1) / 2 * (l1 - l0) * (x0 - b),
        ),
        (
            "right up to sign of the move: x0 has been going from x0_before to x0, and it goes on that way.",
            lambda *args: look_ahead(*args, scale=-0.5),
        ),
        (
            "the ratio of the steps is upside down: a long step ahead needs a long look, h / h_before.",
            lambda x0, b, l0, l1, l2: x0 + (l1 - l0) / (2 * (l2 - l1)) * (x0 - b),
        ),
        (
            "h_before is the step that lies behind us, lambda_now - lambda_before; this one reaches to the next.",
            lambda x0, b, l0, l1, l2: x0 + (l2 - l1) / (2 * (l2 - l0)) * (x0 - b),
        ),
        ("the steps are taken as equally long: multiply by h / h_before.", lambda x0, b, l0, l1, l2: x0 + (x0 - b) / 2),
        (
            "this starts from x0_before; the look ahead starts from x0.",
            lambda x0, b, l0, l1, l2: b + (l2 - l1) / (2 * (l1 - l0)) * (x0 - b),
        ),
        (
            "this is the move alone: add it to x0.",
            lambda x0, b, l0, l1, l2: (l2 - l1) / (2 * (l1 - l0)) * (x0 - b),
        ),
        ("this is x0 itself, DDIM: add the move.", lambda x0, b, *clock: x0 + 0),
    ),
    hints=(
        "A straight line through the last two guesses, read half a step ahead.",
        "The guess moves by (x0 - x0_before) / h_before per unit of the clock; h_before = lambda_now - lambda_before.",
        "Follow the line for half of h = lambda_next - lambda_now: add h / 2 times the slope of hint 2 to x0.",
    ),
)


EXERCISES = {
    "03-ddim": DDIM,
    "03-multistep": MULTISTEP,
    "03-steps": STEPS,
    "03-eta": ETA,
    "03-heun": HEUN,
    "03-broken": BROKEN,
}
