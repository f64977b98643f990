"""Every exercise's check accepts its solution, and answers typical wrong answers with a word that helps."""
import ast
import importlib
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from course_utils.checks.core import Exercise, check, hint

CHECKS = Path(__file__).parents[1] / "course_utils" / "checks"
EXERCISES = {name: exercise for path in sorted(CHECKS.glob("nb*.py"))
             for name, exercise in importlib.import_module(f"course_utils.checks.{path.stem}").EXERCISES.items()}


def pp(a):
    return a.view(-1, 1, 1, 1)


def triple(x0, alpha_bar, generator, steps=None, draw=torch.randn, shift=0):
    t = torch.randint(*(steps or (0, len(alpha_bar))), (len(x0),), generator=generator)
    eps = draw(x0.shape, generator=generator)
    a = pp(alpha_bar[(t + shift).clamp(0, len(alpha_bar) - 1)].to(x0.dtype))
    return a.sqrt() * x0 + (1 - a).sqrt() * eps, t, eps


def own_generator(x0, alpha_bar, generator):
    return triple(x0, alpha_bar, torch.Generator().manual_seed(0))


def one_step(x0, alpha_bar, generator):
    t = torch.randint(len(alpha_bar), (1,), generator=generator).expand(len(x0))
    eps = torch.randn(x0.shape, generator=generator)
    return pp(alpha_bar[t].float()).sqrt() * x0 + pp(1 - alpha_bar[t].float()).sqrt() * eps, t, eps


def same_noise(x0, alpha_bar, generator):
    t = torch.randint(len(alpha_bar), (len(x0),), generator=generator)
    eps = torch.randn(x0[:1].shape, generator=generator).expand_as(x0)
    return pp(alpha_bar[t].float()).sqrt() * x0 + pp(1 - alpha_bar[t].float()).sqrt() * eps, t, eps


def double_triple(x0, alpha_bar, generator):
    xt, t, eps = triple(x0.double(), alpha_bar, generator)
    return xt, t, eps


def time_embedding(t, dim):
    half = dim // 2
    angle = t.float()[:, None] * torch.exp(-math.log(10000) * torch.arange(half) / half)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def table_undo(xt, e, t, ab):
    a = pp(ab[t].to(xt.dtype))
    return (xt - (1 - a).sqrt() * e) / a.sqrt()


def ideal(xt, data, a, scale=2.0):
    d2 = ((xt[:, None] - a.sqrt() * data[None]) ** 2).sum(-1)
    return torch.softmax(-d2 / (scale * (1 - a)), dim=1) @ data


def ideal_by_hand(xt, data, a):
    w = torch.exp(-((xt[:, None] - a.sqrt() * data[None]) ** 2).sum(-1) / (2 * (1 - a)))
    return w / w.sum(1, keepdim=True) @ data


def step(model, x0, ab, t, eps):
    a = pp(ab[t].float())
    return ((model(a.sqrt() * x0 + (1 - a).sqrt() * eps, t) - eps) ** 2).mean()


def step_and_backward(*args):
    loss = step(*args)
    loss.backward()
    return loss


def up(x, skip, mode="nearest"):
    return torch.cat([F.interpolate(x, scale_factor=2, mode=mode), skip], dim=1)


SOLUTIONS = {
    "01-closed-form": lambda x0, e, a: pp(a).sqrt() * x0 + pp(1 - a).sqrt() * e,
    "01-alpha-bar": lambda b: torch.cumprod(1 - b, dim=0),
    "01-undo": lambda xt, e, a: (xt - pp(1 - a).sqrt() * e) / pp(a).sqrt(),
    "01-snr": lambda a: torch.log(a / (1 - a)),
    "01-terminal": lambda a: ((a.sqrt() - a[-1].sqrt()) * a[0].sqrt() / (a[0].sqrt() - a[-1].sqrt())) ** 2,
    "01-triple": triple,
    "02-time-embedding": time_embedding,
    "02-eps-to-x0": table_undo,
    "02-ideal-denoiser": ideal,
    "02-ddpm-mean": lambda xt, e, b, a: (xt - b / (1 - a).sqrt() * e) / (1 - b).sqrt(),
    "02-training-step": step,
    "02-skip": up,
}

# exercise -> (a wrong answer, words its verdict must hold)
WRONG = [
    ("01-closed-form", lambda x0, e, a: pp(a) * x0 + pp(1 - a) * e, "square roots are missing"),
    ("01-closed-form", lambda x0, e, a: pp(1 - a).sqrt() * x0 + pp(a).sqrt() * e, "exchanged"),
    ("01-closed-form", lambda x0, e, a: pp(a).sqrt() * x0 - pp(1 - a).sqrt() * e, "up to sign"),
    ("01-closed-form", lambda x0, e, a: a.sqrt() * x0 + (1 - a).sqrt() * e, "(B, 1, 1, 1)"),
    ("01-closed-form", lambda x0, e, a: a[0].sqrt() * x0 + (1 - a[0]).sqrt() * e, "first picture's step"),
    ("01-closed-form", lambda x0, e, a: (pp(a).sqrt() * x0 + pp(1 - a).sqrt() * e).double(), "float64"),
    ("01-closed-form", lambda x0, e, a: 2 * (pp(a).sqrt() * x0 + pp(1 - a).sqrt() * e), "factor"),
    ("01-closed-form", lambda x0, e, a: pp(a).sqrt() * x0 + pp(1 - a).sqrt() * torch.randn_like(x0), "random"),
    ("01-closed-form", lambda x0, e, a: x0.mul_(pp(a).sqrt()).add_(pp(1 - a).sqrt() * e), "in place"),
    ("01-alpha-bar", lambda b: torch.cumprod(b, 0), "not alpha = 1 - beta"),
    ("01-alpha-bar", lambda b: 1 - torch.cumsum(b, 0), "sum is not a product"),
    ("01-alpha-bar", lambda b: 1 - b, "single step"),
    ("01-alpha-bar", lambda b: torch.cumprod(1 - b.float(), 0), "float32"),
    ("01-alpha-bar", lambda b: torch.cumprod(1 - b, 0).flip(0), "reverse order"),
    ("01-alpha-bar", lambda b: torch.cat([torch.ones(1).double(), torch.cumprod(1 - b, 0)])[:-1], "t - 1"),
    ("01-undo", lambda xt, e, a: xt - pp(1 - a).sqrt() * e, "divide by sqrt(alpha_bar)"),
    ("01-undo", lambda xt, e, a: (xt - pp(1 - a).sqrt() * e) / pp(a), "not by alpha_bar"),
    ("01-undo", lambda xt, e, a: (xt + pp(1 - a).sqrt() * e) / pp(a).sqrt(), "up to sign"),
    ("01-undo", lambda xt, e, a: xt - e, "neither coefficient"),
    ("01-snr", lambda a: a / (1 - a), "logarithm"),
    ("01-snr", lambda a: torch.log10(a / (1 - a)), "log10"),
    ("01-snr", lambda a: torch.log((1 - a) / a), "sign"),
    ("01-snr", lambda a: torch.log(a.sqrt() / (1 - a).sqrt()), "amplitudes"),
    ("01-terminal", lambda a: (a - a[-1]) * a[0] / (a[0] - a[-1]), "square root"),
    ("01-terminal", lambda a: (a.sqrt() - a[-1].sqrt()) ** 2, "not scaled"),
    ("01-terminal", lambda a: (a.sqrt() - a[-1].sqrt()) * a[0].sqrt() / (a[0].sqrt() - a[-1].sqrt()), "square it"),
    ("01-terminal", lambda a: ((a.sqrt() - a[-1].sqrt()) / (a[0].sqrt() - a[-1].sqrt())) ** 2, "became 1"),
    ("01-triple", one_step, "same t"),
    ("01-triple", same_noise, "same noise"),
    ("01-triple", own_generator, "seed inside"),
    ("01-triple", double_triple, "float64"),
    ("01-triple", lambda x0, ab, g: triple(x0, ab, None), "generator=generator"),
    ("01-triple", lambda x0, ab, g: triple(x0, ab, g, draw=torch.rand), "uniform"),
    ("01-triple", lambda x0, ab, g: triple(x0, ab, g, steps=(1, len(ab))), "t = 0 never"),
    ("01-triple", lambda x0, ab, g: triple(x0, ab, g, steps=(0, len(ab) - 1)), "never comes up"),
    ("01-triple", lambda x0, ab, g: triple(x0, ab, g, shift=-1), "t - 1"),
    ("01-triple", lambda x0, ab, g: triple(x0, ab, g)[0], "three tensors"),
    ("01-triple", lambda x0, ab, g: triple(x0, ab.sqrt(), g), "belong together"),
    ("02-time-embedding", lambda t, d: time_embedding(t, d).roll(d // 2, 1), "cosines first"),
    ("02-time-embedding", lambda t, d: time_embedding(t / 1000, d), "divided by 1000"),
    ("02-time-embedding", lambda t, d: time_embedding(t, d)[0], "shape"),
    ("02-eps-to-x0", lambda xt, e, t, ab: table_undo(xt, e, t - 1, ab), "t - 1"),
    ("02-eps-to-x0", lambda xt, e, t, ab: table_undo(xt, e, t, ab).clamp(-1, 1), "clipped"),
    ("02-eps-to-x0", lambda xt, e, t, ab: (xt - pp(1 - ab[t]).sqrt() * e) / pp(ab[t]).sqrt(), "float64"),
    ("02-eps-to-x0", lambda xt, e, t, ab: table_undo(xt, -e, t, ab), "sign"),
    ("02-ideal-denoiser", lambda xt, d, a: ideal(xt, d, a, scale=1.0), "2 is missing"),
    ("02-ideal-denoiser", lambda xt, d, a: ideal(xt, d, a, scale=-2.0), "nearest"),
    ("02-ideal-denoiser", ideal_by_hand, "torch.softmax"),
    ("02-ideal-denoiser", lambda xt, d, a: ideal(xt, d, a) * a.sqrt(), "faded"),
    ("02-ddpm-mean", lambda xt, e, b, a: (xt + b / (1 - a).sqrt() * e) / (1 - b).sqrt(), "which way does t move"),
    ("02-ddpm-mean", lambda xt, e, b, a: (xt - (1 - a).sqrt() * e) / a.sqrt(), "clean picture"),
    ("02-ddpm-mean", lambda xt, e, b, a: (xt - b * e) / (1 - b).sqrt(), "divisor"),
    ("02-ddpm-mean", lambda xt, e, b, a: xt - b / (1 - a).sqrt() * e, "division is missing"),
    ("02-training-step", lambda m, x0, ab, t, e: step(lambda xt, t: m(x0, t), x0, ab, t, e), "see xt"),
    ("02-training-step", lambda m, x0, ab, t, e: step(m, x0, ab, t, e).detach(), "no gradient"),
    ("02-training-step", lambda m, x0, ab, t, e: step(m, x0, ab, t, e).item(), "float"),
    ("02-training-step", step_and_backward, "loss.backward()"),
    ("02-training-step", lambda m, x0, ab, t, e: step(m, x0, ab, t - 1, e), "not yet"),
    ("02-training-step", lambda m, x0, ab, t, e: step(m, x0, ab, t, e) * e.numel(), "summed"),
    ("02-skip", lambda x, s: torch.cat([s, F.interpolate(x, scale_factor=2)], 1), "reversed"),
    ("02-skip", lambda x, s: up(x, s, "bilinear"), "nearest"),
    ("02-skip", lambda x, s: torch.cat([x.repeat(1, 1, 2, 2), s], 1), "tiled"),
    ("02-skip", lambda x, s: torch.cat([x, s], 1), "stopped"),
]


@pytest.mark.parametrize("name", EXERCISES)
def test_solution_is_accepted(name):
    for _ in range(3):
        verdict = check(name, SOLUTIONS[name])
        assert verdict, verdict
    assert repr(verdict) == "right: 5 fresh random cases agree."


@pytest.mark.parametrize(("name", "answer", "words"), WRONG, ids=[f"{n}: {w}" for n, _, w in WRONG])
def test_wrong_answer_gets_a_useful_word(name, answer, words):
    verdict = check(name, answer)
    assert not verdict
    assert verdict.status == "not right yet"
    assert words in repr(verdict)
    assert "seed=" in repr(verdict)


@pytest.mark.parametrize("name", EXERCISES)
def test_known_mistakes_are_told_by_their_own_message(name):
    exercise = EXERCISES[name]
    assert isinstance(exercise, Exercise)
    assert sum(wrong == name for wrong, _, _ in WRONG) >= 3
    for message, mistake in exercise.mistakes:
        assert check(name, mistake).text.startswith(message)


@pytest.mark.parametrize("name", EXERCISES)
def test_hints_rise_and_stubs_are_not_solved(name):
    def stub(*args):
        raise NotImplementedError("write this")

    assert check(name, stub).status == "not solved yet"
    assert check(name, lambda *args: None).status == "not solved yet"
    assert check(name, lambda *args: ...).status == "not solved yet"
    assert len({hint(name, n).text for n in (1, 2, 3)}) == 3
    assert "three hints" in hint(name, 4).text


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("answer", [lambda *args: 3, lambda *args: "x", lambda *args: args[0], lambda *args: 1 / 0,
                                    lambda *args: (args[0],) * 3, lambda: 0, torch.zeros, lambda *args: torch.zeros(0)])
def test_no_answer_ends_in_a_traceback(name, answer):
    assert check(name, answer).status != "right"


def test_an_exception_is_told_in_one_sentence_with_its_line():
    def answer(x0, eps, alpha_bar_t):
        half = x0 / 2
        return half + undefined  # noqa: F821

    text = repr(check("01-closed-form", answer))
    assert "`return half + undefined" in text
    assert "NameError" in text
    assert "\n" not in text


def test_a_torch_function_that_is_not_implemented_is_no_stub():
    assert check("01-snr", lambda a: torch.randn(3, dtype=torch.int64)).status == "not right yet"


def test_the_same_seed_gives_the_same_verdict_and_other_random_numbers_stay():
    def wrong(x0, eps, alpha_bar_t):
        return x0 + 0.1 * torch.randn(3).sum() * 0

    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert repr(check("01-closed-form", wrong, seed=11)) == repr(check("01-closed-form", wrong, seed=11))
    assert torch.equal(torch.rand(1), expected)


def test_unknown_names_and_results_instead_of_functions_get_a_sentence():
    assert "there are 01-closed-form" in repr(check("01-nothing", print))
    assert "no notebook 99" in repr(check("99-x", print))
    assert "no notebook" in repr(hint("x"))
    assert "the function itself" in repr(check("01-snr", torch.ones(3)))


def test_the_html_verdict_keeps_the_page_colours_and_escapes():
    page = check("01-snr", lambda a: a < 1)._repr_html_()
    assert "background" not in page
    assert "color: " not in page.replace("border-color: ", "")
    assert "<script" not in check("01-<script", print)._repr_html_()


def test_functions_stay_short():
    for path in CHECKS.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 200, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 25, (path.name, node.name)
