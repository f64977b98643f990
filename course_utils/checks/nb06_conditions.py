"""The exercises on a part that stays: what an inpainting network sees, and a blend that goes wrong."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from course_utils.checks.core import Exercise
from course_utils.generator.schedules import make_schedule


# ------------------------------------------------------------------ nine channels
def toy_encode(pictures):
    """Stand in for an encoder: (B, 3, H, W) -> (B, 4, H/4, W/4); not linear, and each place sees 12 x 12 pixels."""
    h = torch.tanh(F.avg_pool2d(pictures, 3, stride=1, padding=1) + 0.3)
    h = F.avg_pool2d(h, 12, stride=4, padding=4)
    return torch.cat([h, h.square().mean(dim=1, keepdim=True)], dim=1)


def nine_case(g: torch.Generator, i: int) -> tuple:
    """(zt, picture, mask, encode): a picture of four times the latent's side, and a hole at odd places."""
    side = 6 + i
    zt, picture = torch.randn(2, 4, side, side, generator=g), torch.rand(2, 3, 4 * side, 4 * side, generator=g) * 2 - 1
    mask = (torch.rand(2, 1, 4 * side, 4 * side, generator=g) < 0.5).float()
    return zt, picture, mask, toy_encode


def shrink(mask, size):
    """The nearest pixel decides."""
    return F.interpolate(mask, size=size)


def nine(zt, picture, mask, encode, small=shrink, order=(0, 1, 2), hide=lambda picture, mask: picture * (1 - mask)):
    """Latent, mask, latent of what is kept, in Stable Diffusion's order."""
    parts = zt, small(mask, zt.shape[-2:]), encode(hide(picture, mask))
    return torch.cat([parts[i] for i in order], dim=1)


def _hidden_late(zt, picture, mask, encode):
    """The whole picture is encoded, and its latent masked."""
    small = shrink(mask, zt.shape[-2:])
    return torch.cat([zt, small, encode(picture) * (1 - small)], dim=1)


def smooth(mask, size):
    """Shrink a mask by averaging."""
    return F.interpolate(mask, size=size, mode="bilinear", antialias=True)


NINE = Exercise(
    reference=lambda *args: nine(*args),
    cases=nine_case,
    mistakes=(
        (
            "the network is shown the whole picture, also what it is to draw: hide that before you encode.",
            lambda *args: nine(*args, hide=lambda picture, mask: picture),
        ),
        (
            "the part is hidden after encoding: every latent place has already seen its neighbours. Hide it before.",
            _hidden_late,
        ),
        (
            "what is kept and what is hidden are exchanged: 1 is drawn anew, so picture * (1 - mask) is kept.",
            lambda *args: nine(*args, hide=lambda picture, mask: picture * mask),
        ),
        (
            "the order is another one: latent 4, mask 1, masked latent 4. The trained weights know no other.",
            lambda *args: nine(*args, order=(0, 2, 1)),
        ),
        (
            "the mask stands first; Stable Diffusion's order is latent 4, mask 1, masked latent 4.",
            lambda *args: nine(*args, order=(1, 0, 2)),
        ),
        ("the masked latent and the noisy one are exchanged.", lambda *args: nine(*args, order=(2, 1, 0))),
        (
            "the mask is averaged, so it has grey borders: the nearest pixel decides (F.interpolate as it is).",
            lambda *args: nine(*args, small=smooth),
        ),
        (
            "the mask is cut out of a corner; shrink it.",
            lambda *args: nine(*args, small=lambda mask, size: mask[..., : size[0], : size[1]]),
        ),
        (
            "the mask's channel is turned round: 1 stays where the picture is drawn anew.",
            lambda *args: nine(*args, small=lambda mask, size: 1 - shrink(mask, size)),
        ),
        (
            "the mask is missing: 8 channels instead of 9.",
            lambda zt, picture, mask, encode: torch.cat([zt, encode(picture * (1 - mask))], dim=1),
        ),
    ),
    slips=(
        (
            "Sizes of tensors must match except in dimension 1",
            "the mask, or the picture, still has the picture's size: shrink the mask to the latent's, encode the "
            "picture, then join them.",
        ),
    ),
    hints=(
        "Three things side by side, all at the latent's size. The picture must lose its middle first.",
        "F.interpolate(mask, size=zt.shape[-2:]) takes the nearest pixel; torch.cat(..., dim=1) joins channels.",
        "Channels 0-3 are zt, channel 4 the small mask, channels 5-8 the latent of the picture times (1 - mask).",
    ),
)


# ------------------------------------------------------------------ the grain in the kept part
ALPHA_BAR = make_schedule("cosine").alpha_bar.tolist()


def toy_model(zt, t):
    """Stand in for a network that predicts the clean latent: not linear, minds the step, and each place all others."""
    return torch.tanh(zt * (1 + t / 1000)) + 0.5 * zt.mean(dim=(2, 3), keepdim=True)


def grain_case(g: torch.Generator, i: int) -> tuple:
    """(model, zT, known, mask, table, alpha_bar)."""
    zT, known = torch.randn(2, 2, 4, 6, 6, generator=g)
    mask = (torch.rand(2, 1, 6, 6, generator=g) < 0.5).float()
    steps = 3 + i
    return toy_model, zT, known, mask, [1000 * k // steps - 1 for k in range(steps, 0, -1)], list(ALPHA_BAR)


def fill(model, zT, known, mask, table, alpha_bar, back=None):
    """DDIM with the known part put back, noised to where the sample stands; back(known, zT, a, a_next): what is put."""
    zt, back = zT, back or (lambda known, zT, a, a_next: a_next**0.5 * known + (1 - a_next) ** 0.5 * zT)
    for t, t_next in zip(table, [*table[1:], None], strict=True):
        a, a_next = alpha_bar[t], 1.0 if t_next is None else alpha_bar[t_next]
        z0 = model(zt, t)
        eps = (zt - a**0.5 * z0) / (1 - a) ** 0.5
        zt = a_next**0.5 * z0 + (1 - a_next) ** 0.5 * eps
        zt = mask * zt + (1 - mask) * back(known, zT, a, a_next)
    return zt


def _before(model, zT, known, mask, table, alpha_bar):
    """The known part is put back before the network is called, and never after the last step."""
    zt = zT
    for t, t_next in zip(table, [*table[1:], None], strict=True):
        a, a_next = alpha_bar[t], 1.0 if t_next is None else alpha_bar[t_next]
        zt = mask * zt + (1 - mask) * (a**0.5 * known + (1 - a) ** 0.5 * zT)
        z0 = model(zt, t)
        eps = (zt - a**0.5 * z0) / (1 - a) ** 0.5
        zt = a_next**0.5 * z0 + (1 - a_next) ** 0.5 * eps
    return zt


def _at_the_end(model, zT, known, mask, table, alpha_bar):
    """The bug, with the clean latent pasted in at the end."""
    zt = fill(model, zT, known, mask, table, alpha_bar, lambda k, e, a, b: a**0.5 * k + (1 - a) ** 0.5 * e)
    return mask * zt + (1 - mask) * known


GRAIN = Exercise(
    reference=lambda *args: fill(*args),
    cases=grain_case,
    mistakes=(
        (
            "the bug is still there: after the step zt stands at t_next, and the known part is noised to t.",
            lambda *args: fill(*args, lambda k, e, a, b: a**0.5 * k + (1 - a) ** 0.5 * e),
        ),
        (
            "the grain is pasted over at the end, and the cause is still there: at every step the two parts are noised "
            "to different steps.",
            _at_the_end,
        ),
        (
            "the known part is put back clean at every step: a clean part beside a noisy one is nothing that the "
            "network has seen.",
            lambda *args: fill(*args, lambda k, e, a, b: k),
        ),
        (
            "the mask is turned round: 1 is drawn anew, so zt belongs there.",
            lambda model, zT, known, mask, *more: fill(model, zT, known, 1 - mask, *more),
        ),
        (
            "the known part is put back before the network is called; after the last step nobody puts it back.",
            _before,
        ),
        (
            "the roots are missing: the closed form has sqrt(alpha_bar) and sqrt(1 - alpha_bar).",
            lambda *args: fill(*args, lambda k, e, a, b: b * k + (1 - b) * e),
        ),
    ),
    hints=(
        "Which noise is left in the kept part when the loop ends? Follow one kept place through the last step.",
        "After the step zt stands at t_next. What is put back must stand there too.",
        "One letter pair is wrong in the last line of the loop: whose alpha_bar is it?",
    ),
)
