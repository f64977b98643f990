"""The exercise on the training example: right answers are random, so it is judged by what holds of all of them."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise
from course_utils.checks.nb01_noising import MIX_MISTAKES, add_noise


def triple_case(g: torch.Generator, i: int) -> tuple:
    """(x0, alpha_bar, generator): many tiny pictures and few steps, so that every step is certain to come up."""
    steps = 4 + 2 * i
    alpha_bar = torch.cumprod(1 - torch.linspace(0.05, 0.4, steps, dtype=torch.float64), 0)
    seed = int(torch.randint(1 << 30, (), generator=g))
    return torch.rand(512, 3, 2, 2, generator=g) * 2 - 1, alpha_bar, torch.Generator().manual_seed(seed)


def examine_triple(answer, args) -> str | None:
    """Judge a training example by what must hold of it, whatever was drawn."""
    x0, alpha_bar, generator = args
    start = generator.get_state()
    made = answer(x0, alpha_bar, generator)
    if not isinstance(made, (tuple, list)) or len(made) != 3 or not all(isinstance(m, torch.Tensor) for m in made):
        return "return three tensors: xt, t, eps, in this order."
    return (
        _examine_steps(made[1], x0, len(alpha_bar))
        or _examine_noise(made[2], x0)
        or _examine_mix(*made, x0, alpha_bar)
        or _examine_draws(answer, x0, alpha_bar, start, made)
    )


def _examine_steps(t, x0, steps) -> str | None:
    if t.shape == x0.shape:
        return "the second thing returned looks like a batch of pictures: return xt, t, eps, in this order."
    if t.dtype not in (torch.int64, torch.int32) or t.shape != (len(x0),):
        return f"t should hold one whole number per picture, shape ({len(x0)},): torch.randint(..., (len(x0),), ...)."
    if len(set(t.tolist())) == 1:
        return "every picture has the same t: draw one per picture."
    if t.max() >= steps or t.min() < 0:
        return f"t leaves its range: alpha_bar has entries 0 to {steps - 1}; torch.randint leaves its upper end out."
    if t.min() > 0 or t.max() < steps - 1:
        return f"t = {0 if t.min() > 0 else steps - 1} never comes up: randint(0, T) draws 0 to T - 1."
    return None


def _examine_noise(eps, x0) -> str | None:
    if eps.shape != x0.shape:
        return f"eps has shape {tuple(eps.shape)}; it needs one number for every number of x0, {tuple(x0.shape)}."
    if torch.equal(eps, x0):
        return "the label is the noise eps, not the picture x0: return xt, t, eps."
    if torch.equal(eps[0], eps[1]):
        return "every picture gets the same noise: draw as many numbers as x0 has."
    if eps.min() >= -1 and eps.max() <= 1:
        return "the noise is uniform: Gaussian noise comes from torch.randn, not torch.rand."
    if abs(float(eps.mean())) > 0.1 or abs(float(eps.std()) - 1) > 0.1:  # 6,144 numbers: the mean is within 0.05
        return f"the noise has mean {float(eps.mean()):.2f} and std {float(eps.std()):.2f}; they should be 0 and 1."
    return None


def _examine_mix(xt, t, eps, x0, alpha_bar) -> str | None:
    a = alpha_bar[t].to(x0.dtype)
    if xt.shape != x0.shape:
        return f"xt has shape {tuple(xt.shape)}, but {tuple(x0.shape)} is asked."
    if torch.allclose(xt.to(x0.dtype), add_noise(x0, eps, a), atol=1e-4):
        return (
            None
            if xt.dtype == x0.dtype
            else ("xt is float64, and networks take float32: the table carries it over; .to(x0.dtype) brings it back.")
        )
    late = t > 0  # what stands before the first step is anyone's guess
    before = alpha_bar[t[late] - 1].to(x0.dtype)
    if torch.allclose(xt[late].to(x0.dtype), add_noise(x0[late], eps[late], before), atol=1e-4):
        return "xt uses alpha_bar at t - 1: entry t of the table already counts step t."
    for message, mistake in MIX_MISTAKES:
        if xt.dtype == x0.dtype and torch.allclose(xt, mistake(x0, eps, a), atol=1e-4):
            return f"in xt, {message}"
    return "xt, t and eps do not belong together: is xt made from the t and eps that are returned?"


def _examine_draws(answer, x0, alpha_bar, start, made) -> str | None:
    torch.manual_seed(7)  # an answer that ignores the generator draws from here, and differs from its first call
    again = answer(x0, alpha_bar, torch.Generator().set_state(start))
    if not torch.equal(again[1], made[1]):
        return "two generators of one seed give different steps: pass generator=generator to randint."
    if not torch.equal(again[2], made[2]):
        return "two generators of one seed give different noise: pass generator=generator to randn."
    other = answer(x0, alpha_bar, torch.Generator().manual_seed(99))
    if torch.equal(other[1], made[1]) or torch.equal(other[2], made[2]):
        return "another generator gives the same draw: do not seed inside the function, draw from the generator."
    return None


TRAINING_EXAMPLE = Exercise(
    reference=None,
    cases=triple_case,
    examine=examine_triple,
    hints=(
        "Draw t, draw eps, mix: three lines, and return all three.",
        "torch.randint(len(alpha_bar), (len(x0),), generator=generator) draws one step per picture; "
        "torch.randn(x0.shape, generator=generator) the noise.",
        "alpha_bar[t] is float64 and of shape (B,): to the dtype of x0, to (B, 1, 1, 1), then mix as in 01.1.",
    ),
)
