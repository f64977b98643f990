"""The exercises of notebook 02: a network that predicts noise, how well it does, and what a step back is made of."""

from __future__ import annotations

import torch

from course_utils.checks.core import Exercise
from course_utils.checks.nb02_denoiser import KNOWN_LABEL
from course_utils.checks.nb02_model import TinyModel, alpha_bar_table, beta_table, pictures
from course_utils.checks.nb02_sampling import BROKEN_LOOP, COPIES


def ddpm_case(g: torch.Generator, i: int) -> tuple:
    """(xt, eps_pred, beta_t, alpha_bar_t): the whole batch stands at one step, so the last two are single numbers."""
    (xt, eps), beta = pictures(g, i), beta_table(g, 20)
    t = int(torch.randint(1, 20, (), generator=g))
    return xt, eps, beta[t], torch.cumprod(1 - beta, 0)[t]


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
            "the last root is missing: divide by sqrt(1 - beta), not by 1 - beta.",
            lambda xt, e, b, a: (xt - b / (1 - a).sqrt() * e) / (1 - b),
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
        "Write it as two factors: one in front of eps_pred inside the bracket, one that divides the whole bracket.",
    ),
)


def silence_case(g: torch.Generator, i: int) -> tuple:
    """(model, x0, eps, t, alpha_bar): all pictures at one step."""
    x0, eps = pictures(g, i)
    return TinyModel(g), x0 + 0.5, eps, int(torch.randint(1, 20, (), generator=g)), alpha_bar_table(g, 20)


def answer(model, x0, eps, t, alpha_bar):
    """The predicted noise, and the picture that it implies."""
    a = alpha_bar[t]
    xt = a.sqrt() * x0 + (1 - a).sqrt() * eps
    eps_pred = model(xt, torch.full((len(x0),), t))
    return eps_pred, (xt - (1 - a).sqrt() * eps_pred) / a.sqrt()


def picture_error(model, x0, eps, t, alpha_bar):
    return ((answer(model, x0, eps, t, alpha_bar)[1] - x0) ** 2).mean()


def mean_picture_error(x0):
    return ((x0.mean(0) - x0) ** 2).mean()


def error_share(model, x0, eps, t, alpha_bar):
    """The error of the implied picture as a share of the mean picture's error."""
    return picture_error(model, x0, eps, t, alpha_bar) / mean_picture_error(x0)


def _of_noise(scale):
    """A mistaken share: the error of the noise, times scale(alpha_bar_t)."""

    def share(model, x0, eps, t, alpha_bar):
        error = ((answer(model, x0, eps, t, alpha_bar)[0] - eps) ** 2).mean()
        return scale(alpha_bar[t]).to(x0) * error / mean_picture_error(x0)

    return share


def _of_picture(change):
    """A mistaken share, change(implied picture, x0)."""
    return lambda model, x0, eps, t, alpha_bar: change(answer(model, x0, eps, t, alpha_bar)[1], x0)


SILENCE = Exercise(
    reference=error_share,
    cases=silence_case,
    tolerance=1e-3,
    mistakes=(
        (
            "this is the error of the noise; the picture's is 1 / SNR = (1 - alpha_bar) / alpha_bar times that.",
            _of_noise(torch.ones_like),
        ),
        (
            "the SNR multiplies the noise's error here; it divides it: err_eps = SNR * err_x0.",
            _of_noise(lambda a: a / (1 - a)),
        ),
        (
            "the root of the SNR turns noise into picture; errors are squared, so they take the SNR itself.",
            _of_noise(lambda a: ((1 - a) / a).sqrt()),
        ),
        (
            "this compares with an answer of 0, grey paper; without looking, the best answer is the mean picture.",
            _of_picture(lambda x, x0: ((x - x0) ** 2).mean() / (x0**2).mean()),
        ),
        (
            "the mean picture has a mean for every pixel, x0.mean(0); this is one number for all pixels.",
            _of_picture(lambda x, x0: ((x - x0) ** 2).mean() / ((x0.mean() - x0) ** 2).mean()),
        ),
        (
            "the share is upside down: the network's error over the mean picture's.",
            _of_picture(lambda x, x0: mean_picture_error(x0) / ((x - x0) ** 2).mean()),
        ),
        ("this is the network's error alone: divide by the mean picture's.", picture_error),
        ("this is the root of the share: leave both errors squared.", lambda *args: error_share(*args).sqrt()),
        (
            "right, but the implied picture is clipped to [-1, 1]; here it stays as the network says.",
            _of_picture(lambda x, x0: ((x.clamp(-1, 1) - x0) ** 2).mean() / mean_picture_error(x0)),
        ),
        (
            "this uses alpha_bar at t - 1: entry t of the table already counts step t.",
            lambda m, x0, e, t, ab: error_share(lambda xt, ts: m(xt, ts + 1), x0, e, t - 1, ab),
        ),
        (
            "this is one share per picture: take the mean over the batch too.",
            lambda m, x0, e, t, ab: (
                ((answer(m, x0, e, t, ab)[1] - x0) ** 2).mean(dim=(1, 2, 3)) / mean_picture_error(x0)
            ),
        ),
    ),
    hints=(
        "Noise the pictures to step t, ask the model, turn its answer into pictures, and compare twice.",
        "What is the best answer of someone who may not look at xt? Idea 1 says which picture that is.",
        "Both errors are means of squares over everything; the second one compares x0 with x0.mean(0).",
    ),
)


EXERCISES = {
    "02-ddpm-mean": DDPM_MEAN,
    "02-silence": SILENCE,
    "02-known-label": KNOWN_LABEL,
    "02-broken-loop": BROKEN_LOOP,
    "02-copies": COPIES,
}
