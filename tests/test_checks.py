"""Every exercise's check accepts its solution, and answers typical wrong answers with a word that helps."""

import importlib
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from course_utils.checks.core import Exercise, check, hint
from course_utils.generator.samplers import ddim, sample

CHECKS = Path(__file__).parents[1] / "course_utils" / "checks"
EXERCISES = {
    name: exercise
    for path in sorted(CHECKS.glob("nb??.py"))
    for name, exercise in importlib.import_module(f"course_utils.checks.{path.stem}").EXERCISES.items()
}


def pp(a):
    return a.view(-1, 1, 1, 1)


def training_example(x0, alpha_bar, generator, steps=None, draw=torch.randn, shift=0):
    t = torch.randint(*(steps or (0, len(alpha_bar))), (len(x0),), generator=generator)
    eps = draw(x0.shape, generator=generator)
    a = pp(alpha_bar[(t + shift).clamp(0, len(alpha_bar) - 1)].to(x0.dtype))
    return a.sqrt() * x0 + (1 - a).sqrt() * eps, t, eps


def own_generator(x0, alpha_bar, generator):
    return training_example(x0, alpha_bar, torch.Generator().manual_seed(0))


def one_step(x0, alpha_bar, generator):
    t = torch.randint(len(alpha_bar), (1,), generator=generator).expand(len(x0))
    eps = torch.randn(x0.shape, generator=generator)
    return pp(alpha_bar[t].float()).sqrt() * x0 + pp(1 - alpha_bar[t].float()).sqrt() * eps, t, eps


def same_noise(x0, alpha_bar, generator):
    t = torch.randint(len(alpha_bar), (len(x0),), generator=generator)
    eps = torch.randn(x0[:1].shape, generator=generator).expand_as(x0)
    return pp(alpha_bar[t].float()).sqrt() * x0 + pp(1 - alpha_bar[t].float()).sqrt() * eps, t, eps


def example_batch(x0, t, alpha_bar, generator, rand=False, one_step=False, one_noise=False):
    draw = torch.rand if rand else torch.randn
    eps = draw((x0[:1] if one_noise else x0).shape, generator=generator)
    a = pp(alpha_bar[t[:1].expand_as(t) if one_step else t].to(x0.dtype))
    return a.sqrt() * x0 + (1 - a).sqrt() * eps


def double_training_example(x0, alpha_bar, generator):
    xt, t, eps = training_example(x0.double(), alpha_bar, generator)
    return xt, t, eps


def labelled(xt, data, labels, wanted, a, fade=1.0, scale=2.0, mean=lambda w, d: w @ d):
    d = data[labels == wanted]
    d2 = ((xt[:, None] - a.sqrt() ** fade * d[None]) ** 2).sum(-1)
    return mean(torch.softmax(-d2 / (scale * (1 - a)), dim=1), d)


def labelled_by_hand(xt, data, labels, wanted, a):
    d = data[labels == wanted]
    w = torch.exp(-((xt[:, None] - a.sqrt() * d[None]) ** 2).sum(-1) / (2 * (1 - a)))
    return w / w.sum(1, keepdim=True) @ d


def error_share(model, x0, eps, t, alpha_bar, told=None, blind=lambda x0: x0.mean(0), clip=False):
    a = alpha_bar[t].to(x0.dtype)
    xt = a.sqrt() * x0 + (1 - a).sqrt() * eps
    pred = model(xt, torch.full((len(x0),), t if told is None else told))
    guess = (xt - (1 - a).sqrt() * pred) / a.sqrt()
    return (((guess.clamp(-1, 1) if clip else guess) - x0) ** 2).mean() / ((blind(x0) - x0) ** 2).mean()


def noise_share(model, x0, eps, t, alpha_bar, factor=lambda a: 1):
    a = alpha_bar[t].to(x0.dtype)
    pred = model(a.sqrt() * x0 + (1 - a).sqrt() * eps, torch.full((len(x0),), t))
    return factor(a) * ((pred - eps) ** 2).mean() / ((x0.mean(0) - x0) ** 2).mean()


def mended_loop(model, xT, alpha_bar, steps, told=lambda table, i: table[i], last=1.0, fresh=0.0):
    table, xt = torch.linspace(len(alpha_bar) - 1, 0, steps).long(), xT
    for i, t in enumerate(table):
        a, a_next = alpha_bar[t], alpha_bar[table[i + 1]] if i + 1 < steps else torch.tensor(last).double()
        eps = model(xt, torch.full((len(xt),), int(told(table, i))))
        x0 = ((xt - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        xt = a_next.sqrt() * x0 + (1 - a_next).sqrt() * eps + fresh * torch.randn_like(xt)
    return xt


def copy_score(drawings, known, held_out, twin=lambda x: x.flip(3), yardstick=torch.median):
    every = torch.cat([known, twin(known)]).flatten(1)
    near, real = (torch.cdist(x.flatten(1), every).min(dim=1).values for x in (drawings, held_out))
    return near / yardstick(real)


SOLUTIONS = {
    "00-snr": lambda a: torch.log(a / (1 - a)),
    "01-closed-form": lambda x0, e, a: pp(a).sqrt() * x0 + pp(1 - a).sqrt() * e,
    "01-measure": lambda x0, xt: 1 - (xt - (x0 * xt).mean() / (x0 * x0).mean() * x0).var(),  # from the noise's side
    "01-copy": lambda xt, e: (xt * e).mean() / xt.square().mean(),
    "01-shift": lambda a, side: 1 / (1 + (1 - a) / a * (side / 64) ** 2),
    "01-diagnose": example_batch,
    "01-training-example": training_example,
    "02-ddpm-mean": lambda xt, e, b, a: (xt - b / (1 - a).sqrt() * e) / (1 - b).sqrt(),
    "02-silence": error_share,
    "02-known-label": labelled,
    "02-broken-loop": mended_loop,
    "02-copies": copy_score,
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
    ("01-closed-form", lambda x0, e, a: pp(a) * x0 + (1 - pp(a) ** 2).sqrt() * e, "taken for the picture's factor"),
    ("01-closed-form", lambda x0, e, a: x0 + pp(1 - a).sqrt() * e, "not faded"),
    ("01-closed-form", lambda x0, e, a: pp(a).sqrt() * x0 + e, "full strength"),
    ("01-closed-form", lambda x0, e, a: (pp(a).sqrt() * x0 + pp(1 - a).sqrt() * e).clamp(-1, 1), "clipped"),
    ("01-closed-form", lambda x0, e, a: x0.mul_(pp(a).sqrt()).add_(pp(1 - a).sqrt() * e), "in place"),
    ("00-snr", lambda a: a / (1 - a), "logarithm"),
    ("00-snr", lambda a: torch.log10(a / (1 - a)), "log10"),
    ("00-snr", lambda a: torch.log((1 - a) / a), "sign"),
    ("00-snr", lambda a: torch.log(a.sqrt() / (1 - a).sqrt()), "amplitudes"),
    ("00-snr", lambda a: a.log(), "signal alone"),
    ("00-snr", lambda a: 10 * torch.log10(a / (1 - a)), "decibels"),
    ("00-snr", lambda a: torch.log(a) / torch.log(1 - a), "difference"),
    ("01-measure", lambda x0, xt: torch.corrcoef(torch.stack([x0.flatten(), xt.flatten()]))[0, 1] ** 2, "correlation"),
    ("01-measure", lambda x0, xt: (x0 * xt).sum() / (x0 * x0).sum(), "square it"),
    ("01-measure", lambda x0, xt: (x0 * xt).mean() ** 2, "mean square of x0"),
    ("01-measure", lambda x0, xt: 1 - xt.var(), "all of xt for noise"),
    ("01-measure", lambda x0, xt: 2 * ((x0 * xt).sum() / (x0 * x0).sum()) ** 2, "constant factor"),
    ("01-measure", lambda x0, xt: (xt.norm() / x0.norm()) ** 2, "do not yet agree"),
    ("01-measure", lambda x0, xt: xt.var() / x0.var(), "contains the noise"),
    ("01-measure", lambda x0, xt: 1 - (xt - x0).var(), "only sqrt(alpha_bar)"),
    ("01-measure", lambda x0, xt: ((x0 * xt).sum() / (xt * xt).sum()) ** 2, "wrong way"),
    ("01-measure", lambda x0, xt: (xt - (x0 * xt).mean() / (x0 * x0).mean() * x0).var(), "share of the noise"),
    ("01-measure", lambda x0, xt: ((x0 * xt).mean((1, 2, 3)) / (x0 * x0).mean((1, 2, 3))) ** 2, "one number a picture"),
    ("01-measure", lambda x0, xt: float(((x0 * xt).sum() / (x0 * x0).sum()) ** 2), "returns a float"),
    ("01-copy", lambda xt, e: xt.square().mean() / (xt * e).mean(), "upside down"),
    ("01-copy", lambda xt, e: (xt * e).mean() / e.square().mean(), "predicts xt from eps"),
    ("01-copy", lambda xt, e: e.std() / xt.std(), "std against std"),
    ("01-copy", lambda xt, e: e.norm() / xt.norm(), "length against length"),
    ("01-copy", lambda xt, e: torch.cosine_similarity(xt.flatten(), e.flatten(), dim=0), "correlation"),
    ("01-copy", lambda xt, e: (e / xt).mean(), "explode"),
    ("01-copy", lambda xt, e: (xt * e).mean(), "mean square of xt"),
    ("01-copy", lambda xt, e: (xt * e).mean((1, 2, 3)) / xt.square().mean((1, 2, 3)), "one factor a picture"),
    ("01-shift", lambda a, side: torch.sigmoid(torch.logit(a) - 2 * math.log(64 / side)), "wrong way"),
    ("01-shift", lambda a, side: torch.sigmoid(torch.logit(a) + math.log(64 / side)), "half of the shift"),
    ("01-shift", lambda a, side: torch.sigmoid(torch.logit(a) + 2 * math.log2(64 / side)), "natural logarithm"),
    ("01-shift", lambda a, side: torch.logit(a) + 2 * math.log(64 / side), "back into alpha_bar"),
    ("01-shift", lambda a, side: torch.exp(torch.logit(a) + 2 * math.log(64 / side)), "SNR itself"),
    ("01-shift", lambda a, side: a * (64 / side) ** 2, "scale the SNR"),
    ("01-shift", lambda a, side: torch.sigmoid(a.log() + 2 * math.log(64 / side)), "divide by 1 - alpha_bar"),
    ("01-shift", lambda a, side: torch.sigmoid(torch.logit(a) + 2 * math.log(64 / side)).float(), "float32"),
    ("01-diagnose", lambda *args: example_batch(*args, rand=True, one_step=True, one_noise=True), "three symptoms"),
    (
        "01-diagnose",
        lambda *args: example_batch(*args, one_step=True, one_noise=True),
        "grain, and all are equally",
    ),
    (
        "01-diagnose",
        lambda *args: example_batch(*args, rand=True, one_noise=True),
        "bright, and all have the same",
    ),
    ("01-diagnose", lambda *args: example_batch(*args, rand=True, one_step=True), "bright, and all are equally"),
    ("01-diagnose", lambda *args: example_batch(*args, one_step=True), "left: all pictures are equally"),
    (
        "01-diagnose",
        lambda *args: example_batch(*args, one_noise=True),
        "left: all pictures have the same",
    ),
    ("01-diagnose", lambda *args: example_batch(*args, rand=True), "mean of this noise"),
    ("01-diagnose", lambda x0, t, ab, g: example_batch(x0, t, ab, None), "random"),
    ("01-training-example", one_step, "same t"),
    ("01-training-example", lambda *args: [training_example(*args)[k] for k in (0, 2, 1)], "in this order"),
    ("01-training-example", lambda x0, ab, g: (*training_example(x0, ab, g)[:2], x0), "not the picture x0"),
    ("01-training-example", same_noise, "same noise"),
    ("01-training-example", own_generator, "seed inside"),
    ("01-training-example", double_training_example, "float64"),
    ("01-training-example", lambda x0, ab, g: training_example(x0, ab, None), "generator=generator"),
    ("01-training-example", lambda x0, ab, g: training_example(x0, ab, g, draw=torch.rand), "uniform"),
    ("01-training-example", lambda x0, ab, g: training_example(x0, ab, g, steps=(1, len(ab))), "t = 0 never"),
    ("01-training-example", lambda x0, ab, g: training_example(x0, ab, g, steps=(0, len(ab) - 1)), "never comes up"),
    ("01-training-example", lambda x0, ab, g: training_example(x0, ab, g, shift=-1), "t - 1"),
    ("01-training-example", lambda x0, ab, g: training_example(x0, ab, g)[0], "three tensors"),
    ("01-training-example", lambda x0, ab, g: training_example(x0, ab.sqrt(), g), "belong together"),
    ("02-ddpm-mean", lambda xt, e, b, a: (xt + b / (1 - a).sqrt() * e) / (1 - b).sqrt(), "which way does t move"),
    ("02-ddpm-mean", lambda xt, e, b, a: (xt - (1 - a).sqrt() * e) / a.sqrt(), "clean picture"),
    ("02-ddpm-mean", lambda xt, e, b, a: (xt - b * e) / (1 - b).sqrt(), "divisor"),
    ("02-ddpm-mean", lambda xt, e, b, a: xt - b / (1 - a).sqrt() * e, "division is missing"),
    ("02-ddpm-mean", lambda xt, e, b, a: (xt - b / (1 - a) * e) / (1 - b).sqrt(), "square root is missing"),
    ("02-ddpm-mean", lambda xt, e, b, a: (xt - b / (1 - a).sqrt() * e) / a.sqrt(), "of all steps"),
    ("02-ddpm-mean", lambda xt, e, b, a: (xt - b / (1 - a).sqrt() * e) / (1 - b), "last root is missing"),
    ("02-silence", noise_share, "error of the noise"),
    ("02-silence", lambda *args: noise_share(*args, factor=lambda a: a / (1 - a)), "it divides it"),
    ("02-silence", lambda *args: error_share(*args, blind=lambda x0: 0), "grey paper"),
    ("02-silence", lambda *args: error_share(*args, blind=lambda x0: x0.mean()), "one number for all pixels"),
    ("02-silence", lambda *args: error_share(*args, clip=True), "clipped"),
    ("02-silence", lambda *args: 1 / error_share(*args), "upside down"),
    ("02-silence", lambda *args: error_share(*args, told=0), "do not yet agree"),
    ("02-silence", lambda *args: error_share(*args).item(), "float"),
    ("02-known-label", lambda xt, d, k, w, a: labelled(xt, d, 0 * k, 0, a), "no effect"),
    ("02-known-label", lambda xt, d, k, w, a: labelled(xt, d * (k == w)[:, None], 0 * k, 0, a), "do not yet agree"),
    ("02-known-label", lambda xt, d, k, w, a: labelled(xt, d, k == w, False, a), "all the other labels"),
    ("02-known-label", lambda *args: labelled(*args, fade=0), "not faded"),
    ("02-known-label", lambda *args: labelled(*args, scale=1.0), "2 is missing"),
    ("02-known-label", lambda *args: labelled(*args, fade=2), "by its root"),
    ("02-known-label", lambda *args: labelled(*args, scale=2 / (1 - args[-1]).sqrt()), "not by its root"),
    ("02-known-label", lambda *args: labelled(*args, mean=lambda w, d: d[w.argmax(1)]), "nearest data point"),
    ("02-known-label", lambda *args: labelled(*args, mean=lambda w, d: w), "shape"),
    ("02-known-label", labelled_by_hand, "torch.softmax"),
    ("02-broken-loop", lambda *args: mended_loop(*args, told=lambda table, i: i), "bug is still there"),
    ("02-broken-loop", lambda *args: mended_loop(*args, told=lambda table, i: len(table) - 1 - i), "other way"),
    ("02-broken-loop", lambda *args: mended_loop(*args, told=lambda table, i: table[0]), "first step throughout"),
    ("02-broken-loop", lambda *args: mended_loop(*args, told=lambda table, i: table[(i + 1) % len(table)]), "agree"),
    ("02-broken-loop", lambda *args: mended_loop(*args, last=0.99), "agree"),
    ("02-broken-loop", lambda *args: mended_loop(*args, fresh=0.1), "random"),
    ("02-broken-loop", lambda *args: mended_loop(*args)[0], "shape"),
    ("02-copies", lambda *args: copy_score(*args, twin=lambda x: x), "mirrored copy is a copy"),
    ("02-copies", lambda *args: copy_score(*args, twin=lambda x: x.flip(2)), "upside down"),
    ("02-copies", lambda *args: copy_score(*args, yardstick=torch.mean), "not their mean"),
    ("02-copies", lambda *args: copy_score(*args, yardstick=torch.min), "not the smallest"),
    ("02-copies", lambda *args: copy_score(*args, yardstick=lambda d: 1), "divide by"),
    ("02-copies", lambda d, k, h: copy_score(k, d, h), "shape"),
    ("02-copies", lambda d, k, h: copy_score(d, k, h) < 1, "bool"),
]


# ------------------------------------------------------------------ notebook 03
def ddim_step(xt, e, at, s, eta, z, give=2, keep=None, power=0.5):
    sigma = eta * ((1 - s) / (1 - at) * (1 - (at / s if keep is None else keep(at, s)))) ** power
    x0 = (xt - (1 - at).sqrt() * e) / at.sqrt()
    return s.sqrt() * x0 + (1 - s - (sigma**give if give else 0)).sqrt() * e + sigma * z


def ahead(x0, before, l0, l1, l2, share=2.0):
    return x0 + (l2 - l1) / (share * (l1 - l0)) * (x0 - before)


def distance(a, b, power=0.5):
    return ((a - b) ** 2).mean(dim=(1, 2, 3)) ** power


def from_the_finest(draw, budgets, **options):
    best = draw(budgets[-1])
    return torch.stack([distance(draw(steps), best, **options) for steps in budgets])


def from_the_last_one(draw, budgets):
    drawn = [draw(steps) for steps in (budgets[0], *budgets)]
    return torch.stack([distance(a, b) for a, b in zip(drawn, drawn[1:])])


def two_runs(model, xT, schedule, etas, options, seeds=(0, 1), fixed=None, change=0.0):
    rows = []
    for eta in etas:
        a, b = (
            sample(
                ddim,
                model,
                xT + change * seed,
                schedule,
                eta=eta if fixed is None else fixed,
                generator=torch.Generator().manual_seed(seed),
                **options,
            )
            for seed in seeds
        )
        rows.append(distance(a, b))
    return torch.stack(rows)


def heun(slope, x, now, after, special=True, share=0.5, here=False):
    first = slope(x, now)
    euler = x + (after - now) * first
    if special and after == 0:
        return euler
    return x + (after - now) * share * (first + slope(x if here else euler, after))


def euler(slope, x, now, after):
    return x + (after - now) * slope(x, now)


def second_slope(slope, x, now, after):
    return euler(slope, x, now, after) if after == 0 else x + (after - now) * slope(euler(slope, x, now, after), after)


def ddim_loop(model, xT, alpha_bar, table, last=1.0, told=0, skip=0):
    table = [int(t) for t in table] + [-1]
    for i in range(len(table) - 1 - skip):
        a, b = float(alpha_bar[table[i]]), float(alpha_bar[table[i + 1]]) if table[i + 1] >= 0 else float(last)
        x0 = model(xT, torch.full((len(xT),), max(table[i + told], 0)))
        xT = b**0.5 * x0 + (1 - b) ** 0.5 * (xT - a**0.5 * x0) / (1 - a) ** 0.5
    return xT


def as_it_was(model, xT, alpha_bar, table, **options):
    return ddim_loop(model, xT, alpha_bar, table, last=alpha_bar[-1], **options)


SOLUTIONS |= {
    "03-ddim": ddim_step,
    "03-multistep": ahead,
    "03-steps": from_the_finest,
    "03-eta": two_runs,
    "03-heun": heun,
    "03-broken": ddim_loop,
}
WRONG += [
    ("03-ddim", lambda *a: ddim_step(*a, give=0), "does not give way"),
    ("03-ddim", lambda *a: ddim_step(*a, give=1), "subtract sigma ** 2"),
    ("03-ddim", lambda *a: ddim_step(*a, keep=lambda at, s: at), "the ratio alpha_bar_t / alpha_bar_s"),
    ("03-ddim", lambda *a: ddim_step(*a, power=1), "take its square root"),
    ("03-ddim", lambda xt, e, at, s, eta, z: ddim_step(xt, e, at, s, 1.0, z), "eta is not used"),
    ("03-ddim", lambda xt, e, at, s, eta, z: ddim_step(xt, e, at, s, eta**0.5, z), "under the root"),
    ("03-ddim", lambda xt, e, at, s, eta, z: ddim_step(xt, e, at, s, eta, 0 * z), "fresh noise is missing"),
    ("03-ddim", lambda xt, e, at, s, eta, z: (xt - (1 - at).sqrt() * e) / at.sqrt(), "mix it with noise again"),
    ("03-ddim", lambda xt, e, at, s, eta, z: ddim_step(xt, e, at, s, eta, torch.randn_like(z)), "random"),
    ("03-multistep", lambda *a: ahead(*a, share=1.0), "2 is missing"),
    ("03-multistep", lambda *a: ahead(*a, share=-2.0), "sign"),
    ("03-multistep", lambda x0, b, l0, l1, l2: x0 + (l2 - l1) / 2 * (l1 - l0) * (x0 - b), "brackets"),
    ("03-multistep", lambda x0, b, l0, l1, l2: x0 + (x0 - b) / 2, "equally long"),
    ("03-multistep", lambda x0, b, l0, l1, l2: ahead(x0, b, l2, l1, l0), "upside down"),
    ("03-multistep", lambda x0, b, l0, l1, l2: ahead(x0, b, l1, l2, l2 + l2 - l0), "not yet"),
    ("03-multistep", lambda x0, b, l0, l1, l2: ahead(x0, b, l0, l1, l2) - x0, "add it to x0"),
    ("03-steps", lambda *a: from_the_finest(*a, power=1), "root is missing"),
    ("03-steps", from_the_last_one, "with the one before"),
    ("03-steps", lambda draw, n: torch.stack([distance(draw(k), draw(n[0])) for k in n]), "yardstick"),
    ("03-steps", lambda draw, n: torch.stack([(draw(k) - draw(n[-1])).flatten(1).norm(dim=1) for k in n]), "norms"),
    ("03-steps", lambda draw, n: torch.stack([(draw(k) - draw(n[-1])).square().mean() ** 0.5 for k in n]), "pooled"),
    ("03-steps", lambda draw, n: [distance(draw(k), draw(n[-1])) for k in n], "list"),
    ("03-steps", lambda *a: from_the_finest(*a).T, "exchanged"),
    ("03-eta", lambda *a: two_runs(*a, seeds=(0, 0)), "Seed 0 and seed 1"),
    ("03-eta", lambda *a: two_runs(*a, fixed=0.0), "eta is not handed on"),
    ("03-eta", lambda *a: two_runs(*a, fixed=1.0), "eta is 1 in every row"),
    ("03-eta", lambda m, x, schedule, etas, o: two_runs(m, x, schedule, etas, {}), "options are not handed on"),
    ("03-eta", lambda *a: two_runs(*a).square(), "root is missing"),
    ("03-eta", lambda *a: two_runs(*a, seeds=(1, 2)), "seeds are exchanged or others"),
    ("03-eta", lambda *a: two_runs(*a, change=0.1), "not yet"),
    ("03-eta", lambda *a: two_runs(*a)[:, 0], "shape"),
    ("03-heun", lambda *a: heun(*a, share=1.0), "halve the sum"),
    ("03-heun", lambda *a: heun(*a, here=True), "at Euler's end"),
    ("03-heun", lambda *a: heun(*a, special=False), "divides by 0"),
    ("03-heun", euler, "this is Euler's step"),
    ("03-heun", second_slope, "only the second slope"),
    ("03-heun", lambda slope, x, now, after: 2 * x - heun(slope, x, now, after), "the wrong way"),
    ("03-broken", as_it_was, "alpha_bar[-1]"),
    ("03-broken", lambda *a: as_it_was(*a).clamp(-1, 1), "clipped"),
    ("03-broken", lambda m, x, ab, table: ddim_loop(m, x, ab, table, last=ab[0]), "nearly"),
    ("03-broken", lambda *a: ddim_loop(*a, last=0.0), "noise alone"),
    ("03-broken", lambda *a: ddim_loop(*a, skip=1), "left out"),
    ("03-broken", lambda *a: ddim_loop(*a, told=1), "the step it goes to"),
    ("03-broken", lambda m, x, ab, table: ddim_loop(m, x, ab, table[::-1]), "from noise down"),
    ("03-broken", lambda *a: ddim_loop(*a).double(), "float64"),
]


# ------------------------------------------------------------------ notebook 04
def joined(ids, pair, new_id, step=2, count=99, stop=0):
    out, i = [], 0
    while i < len(ids) - stop:
        hit = count > 0 and tuple(ids[i : i + 2].tolist()) == tuple(pair)
        out.append(new_id if hit else int(ids[i]))
        i, count = i + (step if hit else 1), count - hit
    return torch.tensor(out)


def joined_by_for(ids, pair, new_id):
    return torch.tensor([new_id if (int(ids[i]), int(ids[i + 1])) == pair else int(ids[i]) for i in range(len(ids))])


def attention(q, k, v, mask, scale=None, dim=-1, hidden=float("-inf")):
    logits = q @ k.transpose(1, 2) / (scale or q.shape[-1] ** 0.5)
    return logits.masked_fill(~mask[:, None], hidden).softmax(dim) @ v


def attend_then_mask(q, k, v, mask):
    return (attention(q, k, torch.eye(k.shape[1]).expand(len(q), -1, -1), torch.ones_like(mask)) * mask[:, None]) @ v


def repaired(model, xt, t, context, mask, scale, *, first=None, then=None, guide=lambda u, c, s: (1 - s) * u + s * c):
    start = torch.arange(mask.shape[1]).expand(mask.shape) == 0
    masks = torch.cat([start if first is None else first, mask if then is None else then])
    pred = model(torch.cat([xt, xt]), torch.cat([t, t]), context=torch.cat([context, context]), context_mask=masks)
    return guide(*pred.chunk(2), scale)


def by_names(model, xt, t, context, mask, scale):
    start = torch.arange(mask.shape[1]).expand(mask.shape) == 0
    twice = torch.cat([xt, xt]), torch.cat([t, t])
    pred = model(*twice, context=torch.cat([context, context]), context_mask=torch.cat([mask, start]))
    cond, uncond = pred.chunk(2)
    return uncond + scale * (cond - uncond)


def between(plain, guided, xt, t, low, high):
    return guided(xt, t) if low <= t[0] <= high else plain(xt, t)


def weighed(plain, guided, xt, t, low, high):
    return torch.where(pp((low <= t) & (t <= high)), guided(xt, t), plain(xt, t))


def side_by_side(left, right, xt, t, cut=lambda x: x.shape[-1] // 2):
    return torch.cat([left(xt, t)[..., : cut(xt)], right(xt, t)[..., cut(xt) :]], dim=-1)


def by_columns(left, right, xt, t):
    return torch.where(torch.arange(xt.shape[-1]) < xt.shape[-1] // 2, left(xt, t), right(xt, t))


def half_seen(left, right, xt, t):
    m = xt.shape[-1] // 2
    return torch.cat([left(xt[..., :m], t), right(xt[..., m:], t)], dim=-1)


SOLUTIONS |= {
    "04-cross-attention": lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m[:, None]),
    "04-merge": joined,
    "04-broken-guidance": repaired,
    "04-guidance-interval": between,
    "04-two-prompts": side_by_side,
}
WRONG += [
    ("04-cross-attention", lambda q, k, v, m: attention(q, k, v, torch.ones_like(m)), "mask is ignored"),
    ("04-cross-attention", lambda q, k, v, m: attention(q, k, v, m, scale=1), "sqrt(d)"),
    ("04-cross-attention", lambda q, k, v, m: attention(q, k, v, m, scale=q.shape[-1]), "divided by d"),
    ("04-cross-attention", lambda q, k, v, m: attention(q, k, v, m, scale=k.shape[1] ** 0.5), "number of words"),
    ("04-cross-attention", lambda q, k, v, m: attention(q, k, v, ~m), "other way round"),
    ("04-cross-attention", lambda q, k, v, m: attention(q, k, v, ~m, hidden=-1e9), "other way round"),
    ("04-cross-attention", attend_then_mask, "too late"),
    ("04-cross-attention", lambda q, k, v, m: attention(q, k, v, m, dim=1), "runs over the pixels"),
    ("04-cross-attention", lambda q, k, v, m: attention(q, k, v, m, dim=1, hidden=-1e4), "runs over the pixels"),
    ("04-cross-attention", lambda q, k, v, m: attention(q, k, v, m, hidden=0), "logit 0"),
    ("04-cross-attention", lambda q, k, v, m: attention(q, k, torch.eye(6).expand(3, 6, 6), m), "shape"),
    ("04-cross-attention", lambda q, k, v, m: q @ k.mT / q.shape[-1] ** 0.5 * m[:, None] @ v, "no softmax"),
    ("04-merge", lambda ids, p, new: joined(ids, p, new, step=1), "one new token takes the place of two"),
    ("04-merge", lambda ids, p, new: joined(ids, p, new, count=1), "go on to the end"),
    ("04-merge", lambda ids, p, new: joined(ids, p, new, stop=1), "last token is lost"),
    ("04-merge", lambda ids, p, new: joined(ids, p[::-1], new), "backwards"),
    ("04-merge", lambda ids, p, new: joined(joined(ids, p, new), p[::-1], new), "has an order"),
    ("04-merge", lambda ids, p, new: joined(ids, p, new).tolist(), "list"),
    ("04-merge", joined_by_for, "IndexError"),
    ("04-broken-guidance", lambda *a: repaired(*a, first=a[4]), "no effect"),
    ("04-broken-guidance", lambda *a: repaired(*a, guide=lambda c, u, s: u + s * (c - u)), "what the suspect does"),
    ("04-broken-guidance", lambda *a: repaired(*a, guide=lambda u, c, s: c + s * (c - u)), "formula changed"),
    ("04-broken-guidance", lambda *a: repaired(*a, guide=lambda u, c, s: u - s * (c - u)), "sign"),
    ("04-broken-guidance", lambda *a: repaired(*a, guide=lambda u, c, s: c), "no effect"),
    ("04-broken-guidance", lambda *a: repaired(*a, first=torch.zeros_like(a[4])), "start mark is hidden too"),
    ("04-broken-guidance", lambda *a: repaired(*a, guide=lambda u, c, s: s * (c - u)), "not yet"),
    ("04-guidance-interval", lambda p, q, *rest: between(q, p, *rest), "exchanged"),
    ("04-guidance-interval", lambda p, q, x, t, lo, hi: between(p, q, x, t, lo + 1, hi - 1), "ends of the interval"),
    ("04-guidance-interval", lambda p, q, x, t, lo, hi: q(x, t) if t[0] <= hi else p(x, t), "only the upper end"),
    ("04-guidance-interval", lambda p, q, x, t, lo, hi: q(x, t) if lo <= t[0] else p(x, t), "only the lower end"),
    ("04-guidance-interval", lambda p, q, x, t, lo, hi: p(x, t), "never guides"),
    ("04-guidance-interval", lambda p, q, x, t, lo, hi: q(x, t), "every step"),
    ("04-guidance-interval", weighed, "both models run"),
    ("04-guidance-interval", lambda p, q, x, t, lo, hi: q(x, t) if lo <= t <= hi else p(x, t), "RuntimeError"),
    ("04-two-prompts", lambda a, b, x, t: side_by_side(b, a, x, t), "sides are exchanged"),
    ("04-two-prompts", lambda a, b, x, t: side_by_side(a, b, x, t, cut=lambda x: 16), "half the width"),
    ("04-two-prompts", half_seen, "only half of xt"),
    (
        "04-two-prompts",
        lambda a, b, x, t: torch.cat([a(x, t)[..., :4, :], b(x, t)[..., 4:, :]], dim=-2),
        "top and bottom",
    ),
    ("04-two-prompts", lambda a, b, x, t: (a(x, t) + b(x, t)) / 2, "blend"),
    ("04-two-prompts", lambda a, b, x, t: a(x, t), "left model's"),
    ("04-two-prompts", lambda a, b, x, t: torch.cat([a(x, t), b(x, t)], dim=-1), "shape"),
]


@pytest.mark.parametrize(("name", "other"), [("04-broken-guidance", by_names), ("04-two-prompts", by_columns)])
def test_text_exercises_accept_another_way(name, other):
    assert check(name, other)


# ------------------------------------------------------------------ notebook 05
PICTURE, CHANNEL = (1, 2, 3), (0, 2, 3)


def decibels(x, y, span=2.0, log=torch.log10):
    return 10 * log(span**2 / (x - y).square().mean(PICTURE))


def channel_bits(mean, logvar, half=0.5, sign=-1, dim=CHANNEL):
    nats = half * (mean.square() + logvar.exp() - 1 + sign * logvar)
    return nats.mean(dim) / math.log(2)


def likely_middle(candidates, probability, carry=True):
    values, order = candidates.sort(dim=0)
    weights = probability[order] if carry else probability.view(-1, 1, 1, 1).expand_as(values)
    best = (weights.cumsum(0) >= 0.5).int().argmax(0)  # the first of equal maxima
    return values.gather(0, best[None])[0]


def best_of_all_values(candidates, probability):
    costs = ((candidates[:, None] - candidates[None]).abs() * probability.view(1, -1, 1, 1, 1)).sum(1)  # (K, C, H, W)
    return candidates.gather(0, costs.argmin(0)[None])[0]


def gain(decode, z, eps, level, size=torch.std):
    return F.mse_loss(decode(z + level * size(z) * eps), decode(z)).sqrt() / level


def spreads(mean, logvar, dim=CHANNEL):
    return torch.stack([mean.var(dim, correction=0).sqrt(), logvar.exp().mean(dim).sqrt()])


SOLUTIONS |= {
    "05-psnr": lambda x, y: 20 * torch.log10(2 / (x - y).square().mean(PICTURE).sqrt()),
    "05-bits": channel_bits,
    "05-median": likely_middle,
    "05-gain": gain,
    "05-attention": lambda n, m, d: 4 * n * n * d + 4 * n * m * d,
    "05-symptoms": spreads,
}
WRONG += [
    ("05-psnr", lambda x, y: decibels(x, y, span=1), "span 2, from -1 to 1, not 1"),
    ("05-psnr", lambda x, y: decibels(x, y, log=torch.log), "natural logarithm"),
    ("05-psnr", lambda x, y: 10 * torch.log10(4 / F.mse_loss(x, y)), "shape"),
    ("05-psnr", lambda x, y: 10 * torch.log10(4 / (x - y).abs().mean(PICTURE)), "not squared"),
    ("05-psnr", lambda x, y: 10 * torch.log10(4 / (x - y).mean(PICTURE).square()), "square first"),
    ("05-psnr", lambda x, y: (10 * torch.log10(4 / (x - y).square().mean((2, 3)))).mean(1), "errors first"),
    ("05-psnr", lambda x, y: decibels(x, y, span=x.max() - x.min()), "happen to be here"),
    ("05-psnr", lambda x, y: 2 * decibels(x, y), "factor"),
    ("05-bits", lambda m, lv: channel_bits(m, lv) * math.log(2), "nats"),
    ("05-bits", lambda m, lv: channel_bits(m, lv, half=1), "1/2"),
    ("05-bits", lambda m, lv: channel_bits(m, lv, sign=1), "wrong sign"),
    ("05-bits", lambda m, lv: channel_bits(m, lv, dim=(2, 3)), "shape"),
    ("05-bits", lambda m, lv: channel_bits(m, lv) * m[0, 0].numel(), "sum over the places"),
    ("05-bits", lambda m, lv: channel_bits(m.mean((2, 3), True), lv.mean((2, 3), True)), "first the KL of each"),
    ("05-bits", lambda m, lv: -channel_bits(m, lv), "minus"),
    ("05-bits", lambda m, lv: channel_bits(m, lv).sum() / 4, "shape"),
    ("05-median", lambda c, p: torch.einsum("kchw,k->chw", c, p), "squared error wants"),
    ("05-median", lambda c, p: c.median(dim=0).values, "equally likely"),
    ("05-median", lambda c, p: c[p.argmax()], "likeliest candidate"),
    ("05-median", lambda c, p: likely_middle(c, p, carry=False), "carry them along"),
    ("05-median", lambda c, p: (c * p.view(-1, 1, 1, 1)).median(0).values, "weighs by counting"),
    ("05-median", lambda c, p: c.sort(dim=0).values[len(c) // 2 + 1], "not yet agree"),
    ("05-median", lambda c, p: c.median(dim=0), "returns a median"),
    ("05-gain", lambda *a: gain(*a, size=lambda z: 1), "multiply by z.std()"),
    ("05-gain", lambda *a: gain(*a, size=torch.var), "variance of z"),
    ("05-gain", lambda d, z, e, u: gain(d, z, e, u) * u, "not divided by the level"),
    ("05-gain", lambda d, z, e, u: F.l1_loss(d(z + u * z.std() * e), d(z)) / u, "mean absolute change"),
    ("05-gain", lambda d, z, e, u: d(u * z.std() * e).square().mean().sqrt() / u, "is not linear"),
    ("05-gain", lambda d, z, e, u: gain(d, z, torch.randn_like(e), u), "random"),
    (
        "05-gain",
        lambda d, z, e, u: (d(z + u * z.std() * e) - d(z)).square().mean(PICTURE).sqrt() / u,
        "for each picture",
    ),
    ("05-attention", lambda n, m, d: 2 * n * (n + m) * d, "one of the two products"),
    ("05-attention", lambda n, m, d: 4 * n * n * d, "cross-attention is missing"),
    ("05-attention", lambda n, m, d: 4 * (n + m) ** 2 * d, "words ask nobody"),
    ("05-attention", lambda n, m, d: 4 * n * m * d, "self-attention is missing"),
    ("05-attention", lambda n, m, d: 6 * n * d**2, "projections"),
    ("05-attention", lambda n, m, d: 8 * n * (n + m) * d, "is right"),
    ("05-symptoms", lambda m, lv: spreads(m, lv).square(), "not yet agree"),
    ("05-symptoms", lambda m, lv: torch.stack([m.std(CHANNEL), (lv / 2).exp().mean(CHANNEL)]), "averages variances"),
    ("05-symptoms", lambda m, lv: torch.stack([m.std(CHANNEL), lv.exp().mean(CHANNEL)]), "noise's variance"),
    ("05-symptoms", lambda m, lv: torch.stack([m.std(), lv.exp().mean().sqrt()]), "dead channel hides"),
    ("05-symptoms", lambda m, lv: spreads(m, lv).flip(0), "exchanged"),
    ("05-symptoms", lambda m, lv: spreads(m, lv, dim=PICTURE), "shape"),
    ("05-symptoms", lambda m, lv: tuple(spreads(m, lv)), "torch tensor"),
]


def test_the_best_guess_is_found_by_trying_too():
    assert check("05-median", best_of_all_values)


# ------------------------------------------------------------------ notebook 06
def rest_of(table, strength):
    return table[len(table) - int(strength * len(table)) :]


def sdedit(z, eps, table, strength, alpha_bar, denoise, rest=rest_of, at=0, mix=None):
    left = rest(table, strength)
    if len(left) == 0:
        return z
    a = alpha_bar[left[at]].float()
    return denoise(a**0.5 * z + (1 - a) ** 0.5 * eps if mix is None else mix(z, eps, a), left)


def noised_by_count(z, eps, table, strength, alpha_bar, denoise):
    a = alpha_bar[int(strength * (len(alpha_bar) - 1))].float()
    return sdedit(z, eps, table, strength, alpha_bar, denoise, mix=lambda z, eps, _: a**0.5 * z + (1 - a) ** 0.5 * eps)


def no_way_out(z, eps, table, strength, alpha_bar, denoise):
    return denoise(z, table[len(table) - int(strength * len(table))].reshape(1))


def beside_it(zt, picture, mask, encode, keep=lambda x, m: x - x * m, **options):
    return torch.cat([zt, F.interpolate(mask, zt.shape[-2:], **options), encode(keep(picture, mask))], 1)


def covered(maps, mask, mode="area"):
    cover = F.adaptive_avg_pool2d(mask, maps.shape[-2:]) if mode == "area" else F.interpolate(mask, maps.shape[-2:])
    weights = maps / maps.flatten(1).sum(1).view(-1, 1, 1)
    return torch.einsum("bhw,bhw->b", weights, cover[:, 0]) / cover.mean((1, 2, 3))


def hole_filled(model, zT, known, mask, table, alpha_bar, stands=lambda a, a_next: a_next, flip=False):
    zt, hole = zT, (1 - mask if flip else mask).bool()
    ends = [alpha_bar[t] for t in table[1:]] + [1.0]
    for t, a_next in zip(table, ends):
        a = alpha_bar[t]
        z0 = model(zt, t)
        zt = a_next**0.5 * z0 + ((1 - a_next) / (1 - a)) ** 0.5 * (zt - a**0.5 * z0)
        b = stands(a, a_next)
        zt = torch.where(hole, zt, b**0.5 * known + (1 - b) ** 0.5 * zT)
    return zt


SOLUTIONS |= {
    "06-strength": lambda table, strength: table.flip(0)[: int(strength * len(table))].flip(0),
    "06-img2img": sdedit,
    "06-nine": beside_it,
    "06-enrichment": covered,
    "06-grain": hole_filled,
    "06-two": lambda n, p, b, ps, ts: (1 - ps) * n + (ps - ts) * p + ts * b,
}
WRONG += [
    ("06-strength", lambda table, strength: table[-int(strength * len(table)) :], "whole table where n is 0"),
    ("06-strength", lambda table, strength: table[: int(strength * len(table))], "noisy part"),
    ("06-strength", lambda table, strength: table[int(strength * len(table)) :], "turned round"),
    ("06-strength", lambda table, strength: table[len(table) - round(strength * len(table)) :], "rounded"),
    ("06-strength", lambda table, strength: table[-round(strength * len(table)) :], "rounded"),
    ("06-strength", lambda table, strength: rest_of(table, strength).flip(0), "reversed"),
    ("06-strength", lambda table, strength: rest_of(table, strength).tolist(), "list"),
    ("06-strength", lambda table, strength: table[len(table) - strength * len(table) :], "TypeError"),
    ("06-img2img", lambda *args: sdedit(*args, rest=lambda table, _: table), "the strength does nothing"),
    ("06-img2img", lambda *args: sdedit(*args, at=-1), "begin with the noisiest"),
    ("06-img2img", lambda *args: sdedit(*args, mix=lambda z, e, a: a * z + (1 - a) * e), "roots are missing"),
    ("06-img2img", lambda *args: sdedit(*args, mix=lambda z, e, a: z + (1 - a) ** 0.5 * e), "shrink the latent"),
    ("06-img2img", lambda *args: sdedit(*args, mix=lambda z, e, a: z), "not noised"),
    ("06-img2img", noised_by_count, "numbers do not yet agree"),
    ("06-img2img", no_way_out, "IndexError"),
    ("06-img2img", lambda *args: sdedit(args[0], torch.randn(2, 4, 6, 6), *args[2:]), "random"),
    ("06-nine", lambda zt, x, m, encode: torch.cat([zt, m, encode(x * (1 - m))], 1), "shrink the mask"),
    ("06-nine", lambda zt, x, m, encode: torch.cat([zt, m, x * (1 - m)], 1), "shrink the mask"),
    ("06-nine", lambda *args: beside_it(*args, mode="bilinear", antialias=True), "grey borders"),
    ("06-nine", lambda *args: beside_it(*args, keep=lambda x, m: x), "shown the whole picture"),
    ("06-nine", lambda *args: beside_it(*args, keep=lambda x, m: x * m), "exchanged"),
    ("06-nine", lambda zt, x, m, encode: beside_it(zt, x, m, lambda y: encode(x)) * 1, "shown the whole picture"),
    ("06-nine", lambda *args: beside_it(*args)[:, [0, 1, 2, 3, 5, 6, 7, 8, 4]], "order"),
    ("06-enrichment", lambda maps, mask: covered(maps, mask, "nearest"), "nearest pixels"),
    ("06-enrichment", lambda maps, mask: covered(maps, 1 - mask), "on the background"),
    ("06-enrichment", lambda maps, mask: covered(maps, mask) * mask.mean((1, 2, 3)), "share of the attention alone"),
    ("06-enrichment", lambda maps, mask: covered(maps, mask) * maps.sum((1, 2)), "not divided by their sum"),
    ("06-enrichment", lambda maps, mask: covered(maps, mask).mean(), "shape"),
    ("06-enrichment", lambda maps, mask: (maps * mask[:, 0]).sum((1, 2)), "must match"),
    ("06-grain", lambda *args: hole_filled(*args, stands=lambda a, b: a), "the bug is still there"),
    ("06-grain", lambda *args: hole_filled(*args, stands=lambda a, b: 1.0), "clean at every step"),
    ("06-grain", lambda *args: hole_filled(*args, flip=True), "turned round"),
    ("06-grain", lambda model, zT, known, mask, *more: mask * zT + (1 - mask) * known, "numbers do not yet agree"),
    ("06-grain", lambda model, zT, *more: hole_filled(model, torch.randn_like(zT), *more), "random"),
    ("06-grain", lambda model, zT, known, mask, table, a: hole_filled(model, zT, known, mask, table[:-1], a), "agree"),
    ("06-two", lambda n, p, b, ps, ts: n + ts * (p - n) + ps * (b - p), "exchanged"),
    ("06-two", lambda n, p, b, ps, ts: n + ps * (p - n) + ts * (b - n), "counted twice"),
    ("06-two", lambda n, p, b, ps, ts: (1 - ps) * n + (ps + ts) * p - ts * b, "the wrong way"),
    ("06-two", lambda n, p, b, ps, ts: ps * (p - n) + ts * (b - p), "start is missing"),
    ("06-two", lambda n, p, b, ps, ts: b + ps * (p - n) + ts * (b - p), "starts at the answer with both"),
    ("06-two", lambda n, p, b, ps, ts: n + ps * (p - n), "numbers do not yet agree"),
]


# ------------------------------------------------------------------ notebook 07
def reciprocal_rank(query, keys, right):
    cosines = query @ keys.T
    return 1 / (cosines >= cosines.gather(1, right[:, None])).sum(dim=1)


def hardest(cosines, temperature, dim=1):
    p = (cosines / temperature).softmax(dim=dim)
    p.fill_diagonal_(0)
    return p.amax(dim=dim) / p.sum(dim=dim)


def pairwise_sigmoid(x, y, scale, bias, low=-1.0):
    z = (1 - low) * torch.eye(len(x)) + low
    return -F.logsigmoid(z * (scale * x @ y.T + bias)).sum() / len(x)


def symptoms(image_embed, text_embed, unit=True):
    x, y, eye = F.normalize(image_embed, dim=1), F.normalize(text_embed, dim=1), torch.eye(len(text_embed)).bool()
    length = (image_embed.norm(dim=1) - 1).abs().max()
    pair = x if unit else image_embed
    hits = (x @ y.T).argmax(dim=1) == torch.arange(len(x))
    return torch.stack([length, (pair @ pair.T)[~eye].mean(), hits.float().mean()])


SOLUTIONS |= {
    "07-rank": reciprocal_rank,
    "07-floor": lambda labels: (labels[:, None] == labels).sum(dim=1).log().mean(),
    "07-share": hardest,
    "07-sigmoid": pairwise_sigmoid,
    "07-ensemble": lambda text_embed: F.normalize(text_embed.mean(dim=1), dim=1),
    "07-symptoms": symptoms,
}
WRONG += [
    ("07-rank", lambda q, k, r: 1 / reciprocal_rank(q, k, r), "this is the rank"),
    (
        "07-rank",
        lambda q, k, r: (q @ k.T).argsort(dim=1).eq(r[:, None]).int().argmax(1).add(1.0).reciprocal(),
        "farthest",
    ),
    ("07-rank", lambda q, k, r: ((q @ k.T).argmax(1) == r).float(), "R@1"),
    ("07-rank", lambda q, k, r: reciprocal_rank(q, k, r).mean(), "one for each"),
    ("07-floor", lambda labels: torch.tensor(len(labels)).log(), "say nothing"),
    ("07-floor", lambda labels: (labels[:, None] == labels).float().sum(1).mean().log(), "first log, then mean"),
    ("07-floor", lambda labels: labels.unique(return_counts=True)[1].log().mean(), "weigh it by its count"),
    ("07-floor", lambda labels: (labels[:, None] == labels).sum(1).log(), "shape"),
    ("07-share", lambda c, t: hardest(c, 1 / t), "multiplied by the temperature"),
    ("07-share", lambda c, t: hardest(c, t, dim=0), "columns"),
    ("07-share", lambda c, t: (c / t).softmax(1).amax(1), "own caption takes part"),
    ("07-share", lambda c, t: hardest(c, 1.0), "left out"),
    ("07-sigmoid", lambda x, y, s, b: pairwise_sigmoid(x, y, s, b) / len(x), "N * N"),
    ("07-sigmoid", lambda x, y, s, b: pairwise_sigmoid(x, y, s, b, low=0.0), "multiplied by 0"),
    ("07-sigmoid", lambda x, y, s, b: pairwise_sigmoid(x, y, s, 0.0), "bias is missing"),
    ("07-sigmoid", lambda x, y, s, b: -pairwise_sigmoid(x, y, s, b), "up to sign"),
    ("07-ensemble", lambda text: text.mean(dim=1), "after the mean"),
    ("07-ensemble", lambda text: F.normalize(text.mean(dim=0), dim=1), "over the names"),
    ("07-ensemble", lambda text: text[:, 0], "first phrasing"),
    ("07-symptoms", lambda x, y: symptoms(x, y, unit=False), "second number multiplies"),
    ("07-symptoms", lambda x, y: symptoms(F.normalize(x, dim=1), y), "before you bring"),
    ("07-symptoms", lambda x, y: tuple(symptoms(x, y)), "torch tensor"),
]


# ------------------------------------------------------------------ notebook 08
def how_near(v, best=None):
    eye = torch.eye(len(v), dtype=torch.bool)
    return torch.stack([(v @ v.T)[~eye].mean(), v.mean(dim=0).norm() if best is None else best(v)])


def noise_wins(x0, alpha_bar, strength=lambda x: x.square().mean()):
    return (alpha_bar * strength(x0) <= 1 - alpha_bar).long().argmax()


def even_buckets(x, buckets, low=lambda x: x.amin(0), center=lambda a, b: (a + b) / 2):
    start, end = low(x)[:, None], x.amax(0)[:, None]
    ends = start + (end - start) * torch.arange(buckets + 1) / buckets
    return ends[:, 1:-1], center(ends[:, :-1], ends[:, 1:])


def tokens_run(length, num_dims, steps, draws):
    return length + 1 + num_dims, draws * steps * (length + 4), length + 1 + draws * steps * 3


def draw_symptoms(made, real, wide=lambda v: torch.cdist(v, v).sum((1, 2)).mean() / v.shape[1] / (v.shape[1] - 1)):
    nearest = (made.flatten(0, 1) @ real.flatten(0, 1).T).argmax(1) // real.shape[1]
    own = torch.arange(len(made)).repeat_interleave(made.shape[1])
    return torch.stack([wide(made) / wide(real), (nearest == own).float().mean()])


SOLUTIONS |= {
    "08-ceiling": how_near,
    "08-step": noise_wins,
    "08-buckets": even_buckets,
    "08-cost": tokens_run,
    "08-symptoms": draw_symptoms,
}
WRONG += [
    ("08-ceiling", lambda v: torch.stack([(v @ v.T).mean(), v.mean(0).norm()]), "leave the diagonal out"),
    ("08-ceiling", lambda v: how_near(v, lambda v: (v @ v.mean(0)).mean()), "shorter than 1"),
    ("08-ceiling", lambda v: how_near(v, lambda v: (v @ v.T).mean(1).max()), "best of the pictures"),
    ("08-ceiling", lambda v: how_near(v, lambda v: how_near(v)[0].sqrt()), "root of the first"),
    ("08-step", lambda x0, a: (a <= 0.5).long().argmax(), "scale of the vectors"),
    ("08-step", lambda x0, a: noise_wins(x0, a, lambda x: x.norm(dim=1).square().mean()), "squared length"),
    ("08-step", lambda x0, a: noise_wins(x0, a, lambda x: x.square().mean().sqrt()), "not its root"),
    ("08-step", lambda x0, a: noise_wins(x0, a).item(), "returns a int"),
    ("08-buckets", lambda x, n: even_buckets(x, n, lambda x: 0 * x.amin(0)), "begin at the smallest"),
    ("08-buckets", lambda x, n: even_buckets(x, n, center=lambda a, b: a), "left end"),
    ("08-buckets", lambda x, n: (even_buckets(x, n - 1)[0], even_buckets(x, n)[1]), "shape"),
    ("08-cost", lambda n, k, s, d: (n + k, *tokens_run(n, k, s, d)[1:]), "forgets the text vector"),
    ("08-cost", lambda n, k, s, d: (tokens_run(n, k, s, d)[0], s * (n + 4), tokens_run(n, k, s, d)[2]), "one draw"),
    ("08-cost", lambda n, k, s, d: (*tokens_run(n, k, s, d)[:2], n + 1 + d * s * 4), "so it never changes"),
    ("08-symptoms", lambda a, b: draw_symptoms(a, b, lambda v: torch.cdist(v, v).mean()), "leave the diagonal out"),
    ("08-symptoms", lambda a, b: draw_symptoms(a, b) ** torch.tensor([-1, 1]), "real over made"),
    ("08-symptoms", lambda a, b: torch.stack([draw_symptoms(a, b)[0], draw_symptoms(b, a)[1]]), "asks real pictures"),
]


# ------------------------------------------------------------------ notebook 09
def block_means(x, side):
    f = x.shape[-1] // side
    return x.unflatten(3, (side, f)).unflatten(2, (side, f)).mean((3, 5))


def repeat(small, side):
    f = side // small.shape[-1]
    return small.repeat_interleave(f, 2).repeat_interleave(f, 3)


def back_to_small(x, small, means=block_means, larger=repeat):
    return repeat(small, x.shape[-1]) + x - larger(means(x, small.shape[-1]), x.shape[-1])


def smoothly(d, side):
    return F.interpolate(d, (side, side), mode="bicubic")


def hiding_level(made, real, fault=lambda d: d.square().mean(PICTURE), root=True):
    share = 1 - 1 / (1 + fault(made - real))
    return share.sqrt() if root else share


def squeeze(x0, p, least=1.0, alone=True, divide=True):
    s = torch.stack([torch.quantile(x.abs(), p) for x in (x0 if alone else [x0])]).clamp(min=least).view(-1, 1, 1, 1)
    return torch.minimum(torch.maximum(x0, -s), s) / (s if divide else 1)


def thresholded_step(eps, xt, a, b, p, threshold=squeeze, keep=False):
    x0 = threshold((xt - (1 - a).sqrt() * eps) / a.sqrt(), p)
    ratio = ((1 - b) / (1 - a)).sqrt()
    return b.sqrt() * x0 + (1 - b).sqrt() * eps if keep else ratio * xt + (b.sqrt() - ratio * a.sqrt()) * x0


def level_costs(channels, num_blocks, side, first=2, folds=(18, 18, 2)):
    rows = []
    for k, (c, n) in enumerate(zip(channels.tolist(), num_blocks.tolist())):
        area = (side // (first * 2**k)) ** 2
        rows.append([folds[0] * n * c * c, folds[1] * n * c * c * area, folds[2] * n * c * area])
    return torch.tensor(rows).T


def share_of_skip(h, weight, width, strength=lambda y: y.square().sum(), pad=True):
    def without(channels):
        kept = h.clone()
        kept[:, channels] = 0
        return strength(F.conv2d(kept, weight, padding=weight.shape[-1] // 2 if pad else 0))

    below, skip = without(slice(width, None)), without(slice(width))
    return skip / (below + skip)


def stage_numbers(x, small, real, size=lambda d: d.square().mean().sqrt(), against=None, power=1.0):
    side, full = small.shape[-1], x.shape[-1]
    details = [size(v - repeat(block_means(v, side), full)) ** power for v in (x, real)]
    first = size(small - block_means(real, side)) if against is None else against(x, small, real)
    return torch.stack([first, size(block_means(x, side) - small), details[0] / details[1]])


SOLUTIONS |= {
    "09-consistent": back_to_small,
    "09-level": hiding_level,
    "09-threshold": thresholded_step,
    "09-cost": level_costs,
    "09-skips": share_of_skip,
    "09-stage": stage_numbers,
}
WRONG += [
    ("09-consistent", lambda x, s: x + smoothly(s - block_means(x, s.shape[-1]), x.shape[-1]), "enlarged smoothly"),
    ("09-consistent", lambda x, s: repeat(s, x.shape[-1]), "network painted are gone"),
    ("09-consistent", lambda x, s: back_to_small(x, s).clamp(-1, 1), "cut off at -1 and 1"),
    (
        "09-consistent",
        lambda x, s: back_to_small(x, s, lambda x, n: x[..., :: len(x[0, 0]) // n, :: len(x[0, 0]) // n]),
        "one pixel",
    ),
    ("09-consistent", lambda x, s: x + (s - block_means(x, s.shape[-1])).mean((2, 3), keepdim=True), "one shift"),
    ("09-consistent", lambda x, s: x + s - block_means(x, s.shape[-1]), "must match"),
    ("09-level", lambda a, b: (a - b).square().mean(PICTURE).sqrt(), "augment fades the picture"),
    ("09-level", lambda a, b: hiding_level(a, b, root=False), "share of the variance"),
    ("09-level", lambda a, b: hiding_level(a, b, fault=lambda d: d.abs().mean(PICTURE) ** 2), "mean absolute"),
    ("09-level", lambda a, b: hiding_level(a, b, fault=lambda d: d.var(PICTURE)), "shift of colour is a fault"),
    ("09-level", lambda a, b: hiding_level(a, b, fault=lambda d: d.square().mean()), "shape"),
    ("09-level", lambda a, b: hiding_level(a, b).view(-1, 1, 1, 1), "shape"),
    ("09-threshold", lambda *args: thresholded_step(*args, keep=True), "the noise has not"),
    ("09-threshold", lambda *args: thresholded_step(*args, threshold=lambda x, p: x.clamp(-1, 1)), "this is static"),
    ("09-threshold", lambda *args: thresholded_step(*args, lambda x, p: squeeze(x, p, least=0.0)), "stretched"),
    (
        "09-threshold",
        lambda *args: thresholded_step(*args, lambda x, p: squeeze(x, p, alone=False)),
        "serves all pictures",
    ),
    (
        "09-threshold",
        lambda *args: thresholded_step(*args, lambda x, p: squeeze(x, p, divide=False)),
        "not divided by it",
    ),
    ("09-threshold", lambda *args: thresholded_step(*args, lambda x, p: squeeze(x, 1.0)), "single pixel decides"),
    ("09-threshold", lambda *args: thresholded_step(*args).clamp(-1, 1), "do not yet agree"),
    ("09-cost", lambda *args: level_costs(*args, first=1), "a DBlock downsamples first"),
    ("09-cost", lambda *args: level_costs(*args, folds=(18, 36, 2)), "counts once"),
    ("09-cost", lambda *args: level_costs(*args, folds=(9, 9, 1)), "two convolutions"),
    ("09-cost", lambda *args: level_costs(*args, folds=(18, 18, 1)), "kept for the gradient"),
    ("09-cost", lambda *args: level_costs(*args).T, "shape"),
    ("09-cost", lambda *args: level_costs(*args).float(), "float32"),
    ("09-skips", lambda h, w, n: h[:, n:].square().sum() / h.square().sum(), "weights have a say"),
    ("09-skips", lambda *args: 1 - share_of_skip(*args), "came from below"),
    ("09-skips", lambda *args: share_of_skip(*args, strength=lambda y: y.norm()), "not as their roots"),
    ("09-skips", lambda *args: share_of_skip(*args, pad=False), "border"),
    ("09-skips", lambda h, w, n: share_of_skip(h, w, n, strength=lambda y: y.square().mean((1, 2, 3))), "shape"),
    ("09-stage", lambda x, s, r: stage_numbers(x, s, r, power=2.0), "ratio of squares"),
    (
        "09-stage",
        lambda x, s, r: stage_numbers(x, s, r, against=lambda x, s, r: (x - r).square().mean().sqrt()),
        "first number compares x",
    ),
    ("09-stage", lambda x, s, r: stage_numbers(x, s, r, size=lambda d: d.abs().mean()), "absolute values"),
    ("09-stage", lambda x, s, r: stage_numbers(x, s, r, power=-1.0), "real over made"),
    ("09-stage", lambda x, s, r: stage_numbers(x, s, r)[[1, 0, 2]], "exchanged"),
    ("09-stage", lambda x, s, r: tuple(stage_numbers(x, s, r)), "torch tensor"),
]


# ------------------------------------------------------------------ notebook 10
def two_halves(pred, target, weight, first=1.0):
    n = len(pred) // 2
    error = (pred - target).square().flatten(1).mean(1)
    return first * error[:n].mean() + weight * error[n:].mean()


def drawn_rows(z, context, n, generator, rows=lambda count, n, g: torch.randint(count, (n,), generator=g)):
    index = rows(len(z), n, generator)
    return z[index], context[index]


def cosines(a, b):
    return (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T


def pairs_of_one_prompt(distance, prompts, own=0):
    n = len(prompts)
    return torch.stack([distance[i, j] for i in range(n) for j in range(i + 1 - own, n) if prompts[i] == prompts[j]])


SOLUTIONS |= {
    "10-loss": two_halves,
    "10-pairs": drawn_rows,
    "10-names": lambda pieces, counts: torch.stack([counts[torch.tensor(index)].max() for index in pieces]),
    "10-fidelity": lambda a, b: cosines(a, b).mean(),
    "10-diversity": lambda d, p: pairs_of_one_prompt(d, p).mean(),
}
WRONG += [
    ("10-loss", lambda p, q, w: ((p - q) ** 2).mean(), "plain mean"),
    ("10-loss", lambda p, q, w: two_halves(p, q, 1.0, w), "wrong half"),
    ("10-loss", lambda p, q, w: two_halves(p, q, w, w), "both halves"),
    ("10-loss", lambda p, q, w: two_halves(p, q, w, 1 - w), "always counts once"),
    ("10-loss", lambda p, q, w: two_halves(*(torch.cat([x[::2], x[1::2]]) for x in (p, q)), w), "even and odd"),
    ("10-pairs", lambda z, c, n, g: (drawn_rows(z, c, n, g)[0], drawn_rows(z, c, n, g)[1]), "one index"),
    ("10-pairs", lambda *args: drawn_rows(*args, lambda k, n, g: torch.randperm(k, generator=g)[:n]), "twice"),
    ("10-pairs", lambda z, c, n, g: drawn_rows(z, c, n, g, lambda k, n, g: torch.arange(n)), "first n"),
    ("10-pairs", lambda z, c, n, g: drawn_rows(z, c, n, None), "random numbers of its own"),
    ("10-names", lambda p, c: torch.stack([c[index].min() for index in p]), "rarest piece"),
    ("10-names", lambda p, c: torch.stack([c[index].sum() for index in p]), "sums"),
    ("10-names", lambda p, c: torch.stack([c[index[0]] for index in p]), "first piece"),
    ("10-names", lambda p, c: [int(c[index].max()) for index in p], "torch tensor"),
    ("10-fidelity", lambda a, b: (a @ b.T).mean(), "length 1"),
    ("10-fidelity", lambda a, b: F.cosine_similarity(a.mean(0), b.mean(0), 0), "two mean features"),
    ("10-fidelity", lambda a, b: cosines(a, b).max(1).values.mean(), "nearest"),
    ("10-fidelity", lambda a, b: cosines(a, b).mean(1), "shape"),
    ("10-diversity", lambda d, p: d[d > 0].mean(), "different prompts"),
    ("10-diversity", lambda d, p: pairs_of_one_prompt(d, p, own=1).mean(), "itself"),
    ("10-diversity", lambda d, p: d[torch.tensor([[a == b for a in p] for b in p])].mean(), "itself"),
    ("10-diversity", lambda d, p: pairs_of_one_prompt(d, p).sum(), "sums"),
]


# ------------------------------------------------------------------ notebook 11
def beside_layer(x, W, A, B, alpha):
    return x @ W.T + alpha / len(A) * x @ A.T @ B.T


def merge_conv(W, A, B, alpha):
    return W + alpha / len(A) * (B.flatten(1) @ A.flatten(1)).view_as(W)


def two_gradients(x, dy, A, B, alpha):
    scale = alpha / len(A)
    return scale * B.T @ dy.T @ x, scale * dy.T @ (x @ A.T)


def stack_two(A1, B1, A2, B2, w1, w2):
    return torch.cat([A1, A2]), torch.cat([w1 * B1, w2 * B2], dim=1)


def shorten(delta, rank, power=1.0):
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    return Vh[:rank], U[:, :rank] * S[:rank] ** power


SOLUTIONS |= {
    "11-count": lambda shapes, ranks: ranks * shapes.sum(),
    "11-layer": beside_layer,
    "11-merge": merge_conv,
    "11-gradient": two_gradients,
    "11-mix": stack_two,
    "11-shorten": shorten,
}
WRONG += [
    ("11-count", lambda shapes, ranks: ranks * shapes.prod(1).sum(), "add up"),
    ("11-count", lambda shapes, ranks: ranks * shapes[:, 1].sum(), "only A"),
    ("11-count", lambda shapes, ranks: ranks**2 * shapes.sum(), "squared"),
    ("11-count", lambda shapes, ranks: float(4 * shapes.sum()), "float"),
    ("11-layer", lambda x, W, A, B, a: x @ W.T + x @ A.T @ B.T, "alpha / r is missing"),
    ("11-layer", lambda x, W, A, B, a: x @ W.T + a * x @ A.T @ B.T, "not divided"),
    ("11-layer", lambda x, W, A, B, a: a / len(A) * x @ A.T @ B.T, "base layer is missing"),
    ("11-layer", lambda x, W, A, B, a: x @ W + a / len(A) * x @ A.T @ B.T, "RuntimeError"),
    ("11-merge", lambda W, A, B, a: W + (B.flatten(1) @ A.flatten(1)).view_as(W), "alpha / r is missing"),
    ("11-merge", lambda W, A, B, a: W.add_(a / len(A) * (B.flatten(1) @ A.flatten(1)).view_as(W)), "in place"),
    ("11-merge", lambda W, A, B, a: 2 * W - merge_conv(W, A, B, a), "subtracted"),
    ("11-merge", lambda W, A, B, a: W + a / len(A) * B @ A, "RuntimeError"),
    ("11-gradient", lambda x, dy, A, B, a: two_gradients(x, dy, A, B, a)[::-1], "exchanged"),
    ("11-gradient", lambda x, dy, A, B, a: two_gradients(x, dy, A, B, len(A)), "alpha / r is missing"),
    ("11-gradient", lambda x, dy, A, B, a: two_gradients(x, dy / len(x), A, B, a), "averaged"),
    ("11-gradient", lambda x, dy, A, B, a: two_gradients(x, dy, A, B, a)[1], "2 things"),
    ("11-mix", lambda A1, B1, A2, B2, w1, w2: stack_two(A1, B1, A2, B2, 1, 1), "weights are missing"),
    ("11-mix", lambda A1, B1, A2, B2, w1, w2: stack_two(w1 * A1, B1, w2 * A2, B2, w1, w2), "squared"),
    ("11-mix", lambda A1, B1, A2, B2, w1, w2: stack_two(A1, B1, A2, B2, w1, w2)[::-1], "exchanged"),
    ("11-mix", lambda A1, B1, A2, B2, w1, w2: w1 * B1 @ A1 + w2 * B2 @ A2, "two tensors"),
    ("11-mix", lambda A1, B1, *others: stack_two(torch.cat([A1, 0 * A1]), torch.cat([B1, B1], 1), *others), "rows"),
    ("11-shorten", lambda delta, rank: shorten(delta, rank, power=0), "singular values are missing"),
    ("11-shorten", lambda delta, rank: shorten(delta.flip(0), rank)[::-1], "exchanged"),
    ("11-shorten", lambda delta, rank: shorten(delta, rank + 1), "something else"),
    ("11-shorten", lambda delta, rank: (torch.eye(delta.shape[1]), delta), "whole change"),
]


# ------------------------------------------------------------------ notebook 13
def own_noises(seeds, shape):
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def any_scheduler(scheduler, model, noise, steps, start=True, scale=True):
    scheduler.set_timesteps(steps)
    x = noise * scheduler.init_noise_sigma if start else noise
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t) if scale else x, t), t, x).prev_sample
    return x


def differing(trained, used, defaults):
    left, right = ({**defaults, **config} for config in (trained, used))
    return [name for name in sorted(defaults) if left[name] != right[name]]


def least_squares(before, after, promised):
    return torch.linalg.lstsq(promised.reshape(-1, 1), (after - before).reshape(-1, 1)).solution[0, 0]


def halve(peak, budget, low=0, high=4096):
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if peak(middle) <= budget else (low, middle)
    return low


def one_by_one(peak, budget):
    n = 0
    while peak(n + 1) <= budget:
        n += 1
    return n


def worst(image_embed, concept_embed, thresholds):
    return (F.cosine_similarity(image_embed[:, None], concept_embed[None], dim=-1) - thresholds).max(dim=1).values


SOLUTIONS |= {
    "13-seeds": own_noises,
    "13-loop": any_scheduler,
    "13-options": differing,
    "13-strength": least_squares,
    "13-batch": halve,
    "13-checker": worst,
}
WRONG += [
    (
        "13-seeds",
        lambda seeds, shape: torch.randn(len(seeds), *shape, generator=torch.Generator().manual_seed(seeds[0])),
        "one generator draws for all",
    ),
    ("13-seeds", lambda seeds, shape: own_noises([seeds[0]] * len(seeds), shape), "first seed's noise"),
    ("13-seeds", lambda seeds, shape: own_noises(seeds, shape)[:1], "shape"),
    ("13-seeds", lambda seeds, shape: list(own_noises(seeds, shape)), "list"),
    ("13-loop", lambda *args: any_scheduler(*args, scale=False), "scale_model_input"),
    ("13-loop", lambda *args: any_scheduler(*args, start=False), "init_noise_sigma"),
    ("13-loop", lambda scheduler, model, noise, steps: model(noise, 999), "numbers do not yet agree"),
    ("13-loop", lambda scheduler, model, noise, steps: scheduler.step(model(noise, 1), 1, noise), "stopped with"),
    ("13-options", lambda a, b, d: [n for n in sorted(d) if a.get(n) != b.get(n)], "has its default"),
    ("13-options", lambda a, b, d: differing(a, b, d)[::-1], "not sorted"),
    ("13-options", lambda a, b, d: sorted(set(d) - set(differing(a, b, d))), "options that agree"),
    ("13-options", lambda a, b, d: {n: a.get(n) for n in differing(a, b, d)}, "things"),
    ("13-strength", lambda b, a, p: ((a - b) / p).mean(), "number by number"),
    ("13-strength", lambda b, a, p: (a - b).norm() / p.norm(), "ratio of lengths"),
    ("13-strength", lambda b, a, p: least_squares(a, b, p), "from after to before"),
    ("13-strength", lambda b, a, p: float(least_squares(b, a, p)), "float"),
    ("13-batch", lambda peak, budget: budget // peak(1), "counted for each picture"),
    ("13-batch", one_by_one, "measures"),
    ("13-batch", lambda peak, budget: halve(peak, budget) + 1, "one too many"),
    ("13-batch", lambda peak, budget: halve(peak, budget) / 2, "is right"),
    ("13-checker", lambda x, c, t: (x @ c.T - t).amax(dim=1), "keep their lengths"),
    ("13-checker", lambda x, c, t: -worst(x, c, t), "sign"),
    ("13-checker", lambda x, c, t: worst(x, c, t) > 0, "asked"),
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


@pytest.mark.parametrize("seed", [9429, *range(10)])
def test_where_two_known_mistakes_fit_the_nearer_is_told(seed):
    for message, mistake in EXERCISES["01-measure"].mistakes:  # some lie within its tolerance of each other
        assert check("01-measure", mistake, seed=seed).text.startswith(message)


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
@pytest.mark.parametrize(
    "answer",
    [
        lambda *args: 3,
        lambda *args: "x",
        lambda *args: args[0],
        lambda *args: 1 / 0,
        lambda *args: (args[0],) * 3,
        lambda: 0,
        torch.zeros,
        lambda *args: torch.zeros(0),
    ],
)
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
    assert check("00-snr", lambda a: torch.randn(3, dtype=torch.int64)).status == "not right yet"


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
    assert "the function itself" in repr(check("00-snr", torch.ones(3)))


def test_the_html_verdict_keeps_the_page_colours_and_escapes():
    page = check("00-snr", lambda a: a < 1)._repr_html_()
    assert "background" not in page
    assert "color: " not in page.replace("border-color: ", "")
    assert "<script" not in check("01-<script", print)._repr_html_()
