"""The closed form of noising and its inverse, as the checks of several notebooks compare against them."""

from __future__ import annotations

import torch


def per_picture(value: torch.Tensor) -> torch.Tensor:
    """Shape (B,) -> (B, 1, 1, 1), so that it meets pictures."""
    return value.view(-1, 1, 1, 1)


def add_noise(x0: torch.Tensor, eps: torch.Tensor, alpha_bar_t: torch.Tensor) -> torch.Tensor:
    """xt of DDPM eq. 4; alpha_bar_t: (B,)."""
    a = per_picture(alpha_bar_t)
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def remove_noise(xt: torch.Tensor, eps: torch.Tensor, alpha_bar_t: torch.Tensor) -> torch.Tensor:
    """x0 of the same equation; alpha_bar_t: (B,)."""
    a = per_picture(alpha_bar_t)
    return (xt - (1 - a).sqrt() * eps) / a.sqrt()


def mix(signal, noise):
    """A mistaken closed form, its two coefficients given as functions of alpha_bar."""
    return lambda x0, eps, a: signal(per_picture(a)) * x0 + noise(per_picture(a)) * eps


MIX_MISTAKES = (
    (
        "the square roots are missing: alpha_bar is a power, and a picture is scaled by its square root.",
        mix(lambda a: a, lambda a: 1 - a),
    ),
    ("the noise lacks its square root: its coefficient is sqrt(1 - alpha_bar).", mix(torch.sqrt, lambda a: 1 - a)),
    (
        "the picture lacks its square root: its coefficient is sqrt(alpha_bar).",
        mix(lambda a: a, lambda a: (1 - a).sqrt()),
    ),
    (
        "picture and noise have exchanged their coefficients: at alpha_bar = 1 only the picture should be left.",
        mix(lambda a: (1 - a).sqrt(), torch.sqrt),
    ),
    (
        "1 - sqrt(alpha_bar) is not sqrt(1 - alpha_bar): the powers of the two terms must add up to 1.",
        mix(torch.sqrt, lambda a: 1 - a.sqrt()),
    ),
    (
        "alpha_bar is taken for the picture's factor here; it is the picture's power, and the factors are its root and "
        "sqrt(1 - alpha_bar).",
        mix(lambda a: a, lambda a: (1 - a**2).sqrt()),
    ),
    (
        "the picture is not faded: multiply it by sqrt(alpha_bar), or the variance grows.",
        mix(torch.ones_like, lambda a: (1 - a).sqrt()),
    ),
    (
        "the noise comes at full strength: multiply it by sqrt(1 - alpha_bar).",
        mix(torch.sqrt, torch.ones_like),
    ),
    (
        "xt is clipped: noise goes beyond [-1, 1], and the network has to see it as it is.",
        lambda x0, eps, a: add_noise(x0, eps, a).clamp(-1, 1),
    ),
    ("right up to sign: noise is added here, not subtracted.", mix(torch.sqrt, lambda a: -(1 - a).sqrt())),
    (
        "every picture gets the first picture's step: use all of alpha_bar_t, not alpha_bar_t[0].",
        lambda x0, eps, a: add_noise(x0, eps, a[:1].expand(len(a))),
    ),
)
