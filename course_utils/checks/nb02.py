"""The exercises of notebook 02: a network that guesses noise, and what a step back is made of."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from course_utils.checks.core import Exercise
from course_utils.checks.nb01_noising import MIX_MISTAKES, add_noise, per_picture, remove_noise
from course_utils.checks.nb02_denoiser import IDEAL_DENOISER
from course_utils.checks.nb02_network import SKIP, TIME_EMBEDDING


def table(g: torch.Generator, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """beta and alpha_bar, (steps,) each, float64, with alpha_bar between about 0.95 and 0.1."""
    beta = (torch.rand(steps, generator=g, dtype=torch.float64) * 0.1 + 0.04).sort().values
    return beta, torch.cumprod(1 - beta, 0)


def pictures(g: torch.Generator, i: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x0 in [-1, 1] and eps, both (3 + i, 3, 8, 8)."""
    x0 = torch.rand(3 + i, 3, 8, 8, generator=g) * 2 - 1
    return x0, torch.randn(x0.shape, generator=g)


def eps_to_x0_case(g: torch.Generator, i: int) -> tuple:
    """(xt, eps_pred, t, alpha_bar): the whole table this time, and steps after the first."""
    x0, eps = pictures(g, i)
    alpha_bar = table(g, 20)[1]
    t = torch.randint(1, 20, (len(x0),), generator=g)
    xt = add_noise(x0, eps, alpha_bar[t].float())
    return xt, eps + 0.3 * torch.randn(eps.shape, generator=g), t, alpha_bar  # a guess of the noise, not the noise


def eps_to_x0(xt, eps_pred, t, alpha_bar):
    """The picture that a predicted noise implies, in the dtype of xt."""
    return remove_noise(xt, eps_pred, alpha_bar[t].to(xt.dtype))


def _with_a(formula):
    """A mistaken formula of (xt, eps_pred, a), a = alpha_bar[t] per picture."""
    return lambda xt, e, t, alpha_bar: formula(xt, e, per_picture(alpha_bar[t].to(xt.dtype)))


EPS_TO_X0 = Exercise(
    reference=eps_to_x0,
    cases=eps_to_x0_case,
    tolerance=1e-3,
    mistakes=(
        (
            "this uses alpha_bar at t - 1: entry t of the table already counts step t.",
            lambda xt, e, t, alpha_bar: eps_to_x0(xt, e, t - 1, alpha_bar),
        ),
        (
            "the noise is gone, but the picture is still faint: divide by sqrt(alpha_bar).",
            _with_a(lambda xt, e, a: xt - (1 - a).sqrt() * e),
        ),
        (
            "divide by sqrt(alpha_bar), not by alpha_bar: the square root is missing.",
            _with_a(lambda xt, e, a: (xt - (1 - a).sqrt() * e) / a),
        ),
        (
            "the noise lacks its square root: its coefficient is sqrt(1 - alpha_bar).",
            _with_a(lambda xt, e, a: (xt - (1 - a) * e) / a.sqrt()),
        ),
        (
            "right up to sign: the predicted noise is taken away from xt, not added.",
            _with_a(lambda xt, e, a: (xt + (1 - a).sqrt() * e) / a.sqrt()),
        ),
        (
            "the two coefficients are exchanged: which one multiplies the noise?",
            _with_a(lambda xt, e, a: (xt - a.sqrt() * e) / (1 - a).sqrt()),
        ),
        (
            "right, but clipped to [-1, 1]: the sampler does that; here the plain formula is asked.",
            lambda *args: eps_to_x0(*args).clamp(-1, 1),
        ),
    ),
    hints=(
        "It is notebook 01's undo with the predicted noise in place of the true one.",
        "alpha_bar[t] picks one number per picture; bring it to xt's dtype and to shape (B, 1, 1, 1).",
        "a = alpha_bar[t].to(xt.dtype).view(-1, 1, 1, 1); (xt - (1 - a).sqrt() * eps_pred) / a.sqrt().",
    ),
)


def ddpm_case(g: torch.Generator, i: int) -> tuple:
    """(xt, eps_pred, beta_t, alpha_bar_t): the whole batch stands at one step, so the last two are single numbers."""
    (xt, eps), (beta, alpha_bar) = pictures(g, i), table(g, 20)
    t = int(torch.randint(1, 20, (), generator=g))
    return xt, eps, beta[t], alpha_bar[t]


DDPM_MEAN = Exercise(
    reference=lambda xt, e, b, a: (xt - b / (1 - a).sqrt() * e) / (1 - b).sqrt(),
    cases=ddpm_case,
    mistakes=(
        (
            "this is the predicted clean picture x0; one step back removes only beta's share of the noise.",
            lambda xt, e, b, a: (xt - (1 - a).sqrt() * e) / a.sqrt(),
        ),
        (
            "the last division is missing: divide by sqrt(1 - beta), because the step forward had multiplied by it.",
            lambda xt, e, b, a: xt - b / (1 - a).sqrt() * e,
        ),
        (
            "divide by sqrt(1 - beta), of this step, not by sqrt(alpha_bar), of all steps.",
            lambda xt, e, b, a: (xt - b / (1 - a).sqrt() * e) / a.sqrt(),
        ),
        (
            "multiply became divide: the mean is divided by sqrt(1 - beta).",
            lambda xt, e, b, a: (xt - b / (1 - a).sqrt() * e) * (1 - b).sqrt(),
        ),
        (
            "a square root is missing: the noise's factor is beta / sqrt(1 - alpha_bar).",
            lambda xt, e, b, a: (xt - b / (1 - a) * e) / (1 - b).sqrt(),
        ),
        (
            "the noise's factor is beta / sqrt(1 - alpha_bar), not sqrt(beta).",
            lambda xt, e, b, a: (xt - b.sqrt() * e) / (1 - b).sqrt(),
        ),
        (
            "the noise's factor lacks its divisor sqrt(1 - alpha_bar).",
            lambda xt, e, b, a: (xt - b * e) / (1 - b).sqrt(),
        ),
        (
            "right up to sign: which way does t move? A step back takes noise away.",
            lambda xt, e, b, a: (xt + b / (1 - a).sqrt() * e) / (1 - b).sqrt(),
        ),
    ),
    hints=(
        "Take a little of the predicted noise away, then undo the fading of one step.",
        "The little is beta / sqrt(1 - alpha_bar); the fading of one step was sqrt(1 - beta).  (DDPM eq. 11)",
        "(xt - beta_t / (1 - alpha_bar_t).sqrt() * eps_pred) / (1 - beta_t).sqrt().",
    ),
)


class TinyModel(nn.Module):
    """A predictor just large enough to notice what it is given: one 1x1 convolution and a bias that grows with t."""

    def __init__(self, g: torch.Generator):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, 1, 1, generator=g))

    def forward(self, xt, t):
        return F.conv2d(xt, self.weight) + 0.1 * t.to(xt.dtype).view(-1, 1, 1, 1)


def training_case(g: torch.Generator, i: int) -> tuple:
    """(model, x0, alpha_bar, t, eps)."""
    x0, eps = pictures(g, i)
    return TinyModel(g), x0, table(g, 20)[1], torch.randint(1, 20, (len(x0),), generator=g), eps


def training_step(model, x0, alpha_bar, t, eps, noise=add_noise):
    """Mean squared error of the predicted noise; `noise` makes the noisy picture."""
    xt = noise(x0, eps, alpha_bar[t].to(x0.dtype))
    return ((model(xt, t) - eps) ** 2).mean()


def _error(reduce):
    """A mistaken loss, reduce(prediction, x0, eps, xt)."""

    def loss(model, x0, alpha_bar, t, eps):
        xt = add_noise(x0, eps, alpha_bar[t].to(x0.dtype))
        return reduce(model(xt, t), x0, eps, xt)

    return loss


def examine_training_step(answer, args) -> str | None:
    """The loss must carry a gradient, and leave the backward pass to the loop."""
    model = args[0]
    loss = answer(*args)
    if any(p.grad is not None for p in model.parameters()):
        return "the loss is right; leave loss.backward() to the training loop and only return the loss."
    if not loss.requires_grad:
        return "the number is right, but it carries no gradient: no .detach(), .item() or torch.no_grad() here."
    return None


TRAINING_STEP = Exercise(
    reference=training_step,
    cases=training_case,
    examine=examine_training_step,
    mistakes=(
        (
            "the prediction is compared with the picture x0: this network guesses the noise.",
            _error(lambda p, x0, e, xt: ((p - x0) ** 2).mean()),
        ),
        (
            "the prediction is compared with the noisy picture xt: the network guesses the noise in it.",
            _error(lambda p, x0, e, xt: ((p - xt) ** 2).mean()),
        ),
        (
            "the errors are summed; their mean keeps the loss the same for every batch size.",
            _error(lambda p, x0, e, xt: ((p - e) ** 2).sum()),
        ),
        (
            "this is the mean absolute error; the squared error is asked.",
            _error(lambda p, x0, e, xt: (p - e).abs().mean()),
        ),
        (
            "this is the square root of the loss: return the mean squared error itself.",
            _error(lambda p, x0, e, xt: ((p - e) ** 2).mean().sqrt()),
        ),
        (
            "this is one loss per picture: take the mean over the batch too.",
            _error(lambda p, x0, e, xt: ((p - e) ** 2).mean(dim=(1, 2, 3))),
        ),
        (
            "the model sees the clean picture x0: it has to see xt.",
            lambda m, x0, ab, t, e: ((m(x0, t) - e) ** 2).mean(),
        ),
        (
            "the noisy picture uses alpha_bar at t - 1: entry t of the table already counts step t.",
            lambda m, x0, ab, t, e: ((m(add_noise(x0, e, ab[t - 1].to(x0.dtype)), t) - e) ** 2).mean(),
        ),
        (
            "the model sees another step than the one the picture was noised with: hand it t as it is.",
            lambda m, x0, ab, t, e: ((m(add_noise(x0, e, ab[t].to(x0.dtype)), t / len(ab)) - e) ** 2).mean(),
        ),
        *(
            (f"in xt, {message}", lambda m, x0, ab, t, e, wrong=wrong: training_step(m, x0, ab, t, e, wrong))
            for message, wrong in MIX_MISTAKES
        ),
    ),
    hints=(
        "Make the noisy picture, ask the model for the noise, compare with the noise that was really there.",
        "xt comes from notebook 01's closed form with a = alpha_bar[t]; the model is called as model(xt, t).",
        "a = alpha_bar[t].to(x0.dtype).view(-1, 1, 1, 1); xt = a.sqrt() * x0 + (1 - a).sqrt() * eps; "
        "return ((model(xt, t) - eps) ** 2).mean().",
    ),
)


EXERCISES = {
    "02-time-embedding": TIME_EMBEDDING,
    "02-eps-to-x0": EPS_TO_X0,
    "02-ideal-denoiser": IDEAL_DENOISER,
    "02-ddpm-mean": DDPM_MEAN,
    "02-training-step": TRAINING_STEP,
    "02-skip": SKIP,
}
