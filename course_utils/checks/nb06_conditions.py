"""The exercises on conditions: a part that stays, nine channels, a whole text in one vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from course_utils.checks.core import Exercise


# ------------------------------------------------------------------ keep the known part
def keep_case(g: torch.Generator, i: int) -> tuple:
    """(zt, known, eps, mask, alpha_bar_t): the mask is 1 where the picture is drawn anew."""
    zt, known, eps = torch.randn(3, 2, 4, 6, 6, generator=g)
    mask = (torch.rand(2, 1, 6, 6, generator=g) < 0.5).float()
    return zt, 1.5 * known, eps, mask, torch.tensor((0.9, 0.5, 0.2, 0.05, 0.7)[i])


def keep(zt, known, eps, mask, alpha_bar_t, root=lambda a: a.sqrt()):
    """Blend the sample with the known latent, noised to the same step."""
    return mask * zt + (1 - mask) * (root(alpha_bar_t) * known + root(1 - alpha_bar_t) * eps)


KEEP = Exercise(
    reference=lambda *args: keep(*args),
    cases=keep_case,
    mistakes=(
        (
            "the mask is turned round: it is 1 where the picture is drawn anew, so zt belongs there.",
            lambda zt, k, e, m, a: keep(zt, k, e, 1 - m, a),
        ),
        (
            "the known part is clean, and the rest is noisy: noise it to the same step first.",
            lambda zt, k, e, m, a: m * zt + (1 - m) * k,
        ),
        (
            "the roots are missing: the closed form has sqrt(alpha_bar) and sqrt(1 - alpha_bar).",
            lambda zt, k, e, m, a: keep(zt, k, e, m, a, lambda a: a),
        ),
        (
            "the two coefficients are exchanged: the picture gets sqrt(alpha_bar).",
            lambda zt, k, e, m, a: keep(zt, k, e, m, 1 - a),
        ),
        (
            "this noises the known part and forgets to blend it with zt.",
            lambda zt, k, e, m, a: keep(zt, k, e, 0 * m, a),
        ),
        ("nothing is put back: this is zt, hidden where the picture is known.", lambda zt, k, e, m, a: m * zt),
        (
            "the sample is noised a second time: only the known latent needs noise.",
            lambda zt, k, e, m, a: keep(keep(zt, zt, e, 0 * m, a), k, e, m, a),
        ),
    ),
    hints=(
        "Bring the known latent to the noise of step t first. Then choose, place by place.",
        "Noised: sqrt(alpha_bar) * known + sqrt(1 - alpha_bar) * eps. Chosen: mask * new + (1 - mask) * old.",
        "mask * zt + (1 - mask) * (alpha_bar_t.sqrt() * known + (1 - alpha_bar_t).sqrt() * eps).",
    ),
)


# ------------------------------------------------------------------ nine channels
def nine_case(g: torch.Generator, i: int) -> tuple:
    """(zt, mask, kept): latents of h x w places, a mask of four times the side, cut out at odd places."""
    side = 6 + i
    zt, kept = torch.randn(2, 2, 4, side, side, generator=g)
    mask = (torch.rand(2, 1, 4 * side, 4 * side, generator=g) < 0.5).float()
    return zt, mask, kept


def nine(zt, mask, kept, shrink=lambda mask, size: F.interpolate(mask, size=size), order=(0, 1, 2)):
    """Latent, mask, masked latent, in Stable Diffusion's order."""
    parts = zt, shrink(mask, zt.shape[-2:]), kept
    return torch.cat([parts[i] for i in order], dim=1)


def smooth(mask, size):
    """Shrink a mask by averaging."""
    return F.interpolate(mask, size=size, mode="bilinear", antialias=True)


NINE = Exercise(
    reference=lambda *args: nine(*args),
    cases=nine_case,
    mistakes=(
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
            lambda *args: nine(*args, shrink=smooth),
        ),
        (
            "the mask is cut out of a corner; shrink it.",
            lambda *args: nine(*args, shrink=lambda mask, size: mask[..., : size[0], : size[1]]),
        ),
        (
            "the mask is turned round: 1 stays where the picture is drawn anew.",
            lambda zt, mask, kept: nine(zt, 1 - mask, kept),
        ),
        ("the mask is missing: 8 channels instead of 9.", lambda zt, mask, kept: torch.cat([zt, kept], dim=1)),
    ),
    hints=(
        "The mask has the size of the picture, the latents are smaller. Make it fit first.",
        "F.interpolate(mask, size=zt.shape[-2:]) takes the nearest pixel; torch.cat(..., dim=1) joins channels.",
        "torch.cat([zt, F.interpolate(mask, size=zt.shape[-2:]), kept], dim=1).",
    ),
)


# ------------------------------------------------------------------ one vector of a whole text
def pool_case(g: torch.Generator, i: int) -> tuple:
    """(context, position): texts of a few tokens, and the vector that is added to their mean."""
    return 2 * torch.randn(2, 4 + i, 8, generator=g), torch.randn(1, 8, generator=g)


def pool(context, position, scale=None, among=lambda question, context: torch.cat([question, context], dim=1)):
    """Attention of the mean token over itself and all others; one head, no projections."""
    question = context.mean(dim=1, keepdim=True) + position  # (B, 1, D)
    tokens = among(question, context)  # (B, 1 + L, D)
    shares = (question @ tokens.transpose(1, 2) / (scale or context.shape[-1] ** 0.5)).softmax(dim=-1)
    return (shares @ tokens)[:, 0]


POOL = Exercise(
    reference=lambda *args: pool(*args),
    cases=pool_case,
    mistakes=(
        (
            "the question is not among the tokens that answer: lay it before the context.",
            lambda c, p: pool(c, p, among=lambda question, context: context),
        ),
        ("the logits are not divided by sqrt(D): the softmax is too sharp.", lambda c, p: pool(c, p, scale=1.0)),
        ("position is not added to the mean.", lambda c, p: pool(c, 0 * p)),
        ("this is the plain mean: no token is weighed.", lambda c, p: c.mean(dim=1)),
        ("this is the question itself; it has not asked yet.", lambda c, p: c.mean(dim=1) + p),
        (
            "the tokens are averaged evenly: take the softmax of question @ tokens as weights.",
            lambda c, p: torch.cat([c.mean(dim=1, keepdim=True) + p, c], dim=1).mean(dim=1),
        ),
        ("the logits are divided by D, not by its root.", lambda c, p: pool(c, p, scale=c.shape[-1])),
    ),
    hints=(
        "The mean of the tokens, plus position, asks; it and all tokens answer.",
        "question (B, 1, D), tokens = cat([question, context], 1); shares = softmax(question @ tokensᵀ / sqrt(D)).",
        "q = context.mean(1, keepdim=True) + position; k = torch.cat([q, context], 1); "
        "F.scaled_dot_product_attention(q, k, k)[:, 0].",
    ),
)
