"""Exercises of notebook 03 that run a sampler: steps against quality, a sweep of eta, Heun's step, a broken run."""

from __future__ import annotations

from functools import partial

import torch

from course_utils.checks.core import Exercise
from course_utils.generator.samplers import ddim, sample
from course_utils.generator.schedules import make_schedule


def rms(x, y):
    """The root of the mean squared difference of each picture, (B,)."""
    return (x - y).square().flatten(1).mean(1).sqrt()


# ------------------------------------------------------------------ steps against quality
BUDGETS = (2, 3, 5, 9, 20)


def steps_case(g: torch.Generator, i: int) -> tuple:
    """(draw, budgets): pictures that come nearer to their limits with more steps, each at a pace of its own."""
    end, error = torch.randn(2, 3 + i, 3, 4, 4, generator=g)
    pace = torch.rand(3 + i, 1, 1, 1, generator=g) + 0.5
    return lambda steps: end + error / steps**pace, BUDGETS


def misses(draw, budgets, measure=rms, against=lambda drawn, i: drawn[-1]):
    """What is measured between the pictures of each budget and those of another, (S, B)."""
    drawn = [draw(steps) for steps in budgets]
    return torch.stack([measure(x, against(drawn, i)) for i, x in enumerate(drawn)])


STEPS = Exercise(
    reference=misses,
    cases=steps_case,
    mistakes=(
        (
            "the root is missing: this is the mean squared difference.",
            partial(misses, measure=lambda x, y: (x - y).square().flatten(1).mean(1)),
        ),
        (
            "this is the mean absolute difference; the root of the mean square is asked.",
            partial(misses, measure=lambda x, y: (x - y).abs().flatten(1).mean(1)),
        ),
        (
            "these are norms: they grow with the number of pixels. Take the mean of the squares, not their sum.",
            partial(misses, measure=lambda x, y: (x - y).flatten(1).norm(dim=1)),
        ),
        (
            "the root comes before the mean here, pixel by pixel, and leaves absolute differences of channels: mean "
            "first, then root.",
            partial(misses, measure=lambda x, y: (x - y).square().sum(1).sqrt().flatten(1).mean(1)),
        ),
        (
            "each budget is compared with the one before: small moves between neighbours do not tell how far it is.",
            partial(misses, against=lambda drawn, i: drawn[max(i - 1, 0)]),
        ),
        (
            "all are compared with the fewest steps, the worst pictures: the most steps are the yardstick.",
            partial(misses, against=lambda drawn, i: drawn[0]),
        ),
        (
            "the pictures of a batch are pooled: one number for each picture is asked, (S, B).",
            lambda draw, budgets: misses(draw, budgets).square().mean(1).sqrt(),
        ),
        (
            "rows and columns are exchanged: a row for each number of steps, (S, B).",
            lambda draw, budgets: misses(draw, budgets).T,
        ),
    ),
    hints=(
        "Draw with every number of steps, keep all pictures, and take the last ones as the yardstick.",
        "The difference of two batches is (B, 3, S, S); .square().flatten(1).mean(1) leaves one number a picture.",
        "Build a list of the drawn batches, then torch.stack one row for each. Do not forget the root.",
    ),
)


# ------------------------------------------------------------------ how much of a picture fresh noise decides
SCHEDULE = make_schedule("cosine", 60)


def guess(pull, xt, t):
    """A smooth guess of x0 that is no multiple of xt."""
    return torch.tanh(pull * xt + t.view(-1, 1, 1, 1) / 60)


def eta_case(g: torch.Generator, i: int) -> tuple:
    """(model, xT, schedule, etas, options): the options differ from every default of `ddim`."""
    options = {"steps": 5 + i, "prediction": "x0", "clip": False, "spacing": "trailing"}
    pull = float(torch.rand((), generator=g)) + 0.5
    return partial(guess, pull), torch.randn(3 + i, 3, 4, 4, generator=g), SCHEDULE, (0.0, 0.3, 1.0), options


def eta_sweep(model, xT, schedule, etas, options, seeds=(0, 1), measure=rms, other=lambda x: x):
    """The distance of two runs that differ in their fresh noise, (E, B)."""

    def run(seed, start, eta):
        generator = torch.Generator().manual_seed(seed)
        return sample(ddim, model, start, schedule, **{"eta": eta, "generator": generator} | options)

    return torch.stack([measure(run(seeds[0], xT, eta), run(seeds[1], other(xT), eta)) for eta in etas])


def _one_generator(model, xT, schedule, etas, options):
    generator, rows = torch.Generator().manual_seed(0), []
    for eta in etas:
        a, b = (sample(ddim, model, xT, schedule, eta=eta, generator=generator, **options) for _ in range(2))
        rows.append(rms(a, b))
    return torch.stack(rows)


def _without_options(model, xT, schedule, etas, options):
    return eta_sweep(model, xT, schedule, etas, {"steps": options["steps"], "prediction": "x0"})


ETA = Exercise(
    reference=eta_sweep,
    cases=eta_case,
    tolerance=1e-3,
    mistakes=(
        (
            "all is 0: either eta is not handed on, or both runs draw the same fresh noise. Seed 0 and seed 1.",
            partial(eta_sweep, seeds=(0, 0)),
        ),
        (
            "both runs draw from one generator: then a row depends on those before it. Make two for every eta.",
            _one_generator,
        ),
        (
            "the runs begin at different noises: then eta = 0 shows a difference too. Both start from xT.",
            partial(eta_sweep, other=lambda x: x.flip(0)),
        ),
        ("the options are not handed on: **options, every one of them.", _without_options),
        (
            "the options are not handed on: **options, every one of them.",
            lambda model, xT, schedule, etas, options: eta_sweep(model, xT, schedule, etas, {}),
        ),
        (
            "eta is 1 in every row: hand on the eta of the row.",
            lambda model, xT, schedule, etas, options: eta_sweep(model, xT, schedule, [1.0] * len(etas), options),
        ),
        (
            "the root is missing: this is the mean squared difference.",
            partial(eta_sweep, measure=lambda x, y: (x - y).square().flatten(1).mean(1)),
        ),
        (
            "the seeds are exchanged or others: 0 for one run, 1 for the other, so that anyone can repeat them.",
            partial(eta_sweep, seeds=(1, 2)),
        ),
        (
            "the pictures of a batch are pooled: one number for each picture is asked, (E, B).",
            lambda *args: eta_sweep(*args).square().mean(1).sqrt(),
        ),
    ),
    hints=(
        "Change one thing only: the same noise, the same options, another seed of the fresh noise.",
        "One run is sample(ddim, model, xT, schedule, eta=eta, generator=torch.Generator().manual_seed(0), **options).",
        "For every eta two runs, seeds 0 and 1; the root of the mean square of their difference, picture by picture; "
        "torch.stack the rows.",
    ),
)


# ------------------------------------------------------------------ Heun's step
def heun_case(g: torch.Generator, i: int) -> tuple:
    """(slope, x, now, after): a slope that bends with x and with the level; the third case goes to the clean end."""
    a, b = torch.randn(2, 2, 2, generator=g)
    x = torch.randn(4 + i, 2, generator=g)
    now, share = float(torch.rand((), generator=g)) * 3 + 1, float(torch.rand((), generator=g)) * 0.5 + 0.25
    return lambda x, level: torch.tanh(x @ a) / level + x @ b, x, now, (0.0 if i == 2 else share * now)


def heun_step(
    slope,
    x,
    now,
    after,
    weigh=lambda first, second: (first + second) / 2,
    at=lambda x, euler: euler,
    level=lambda now, after: after,
    last=lambda x, euler: euler,
):
    """One step of Heun; the rest is what learners take for something else."""
    first = slope(x, now)
    euler = x + (after - now) * first
    if after == 0:
        return last(x, euler)
    return x + (after - now) * weigh(first, slope(at(x, euler), level(now, after)))


def _from_euler(slope, x, now, after):
    """Adds the second step where Euler's has already led."""
    first = slope(x, now)
    euler = x + (after - now) * first
    return euler if after == 0 else euler + (after - now) * (first + slope(euler, after)) / 2


def _midpoint(slope, x, now, after):
    half = x + (after - now) / 2 * slope(x, now)
    return x + (after - now) * slope(half, (now + after) / 2)


HEUN = Exercise(
    reference=heun_step,
    cases=heun_case,
    tolerance=1e-3,
    mistakes=(
        (
            "the two slopes are added, not averaged: halve the sum.",
            partial(heun_step, weigh=lambda first, second: first + second),
        ),
        (
            "the second slope is taken at x; ask at Euler's end, where the step would lead.",
            partial(heun_step, at=lambda x, euler: x),
        ),
        (
            "the second slope is asked at the old level: Euler's end lies at the level `after`.",
            partial(heun_step, level=lambda now, after: now),
        ),
        (
            "this is Euler's step: ask a second time at its end and use the mean slope.",
            partial(heun_step, weigh=lambda first, second: first),
        ),
        (
            "only the second slope is used: the mean of both is asked.",
            partial(heun_step, weigh=lambda first, second: second),
        ),
        ("the step begins at Euler's end; it begins at x, with the mean slope.", _from_euler),
        (
            "this is the midpoint rule, of second order as well; Heun asks at the end of the step, not in its middle.",
            _midpoint,
        ),
        (
            "the last step, to level 0, is left out: take Euler's step there.",
            partial(heun_step, last=lambda x, euler: x),
        ),
        (
            "right where after > 0. At level 0 the slope divides by 0: take Euler's step there.",
            lambda slope, x, now, after: (
                x + (after - now) * (slope(x, now) + slope(x - now * slope(x, now), 0.0)) / 2
                if after == 0
                else heun_step(slope, x, now, after)
            ),
        ),
        (
            "the step goes the wrong way: it is after - now, which is negative.",
            lambda slope, x, now, after: 2 * x - heun_step(slope, x, now, after),
        ),
    ),
    hints=(
        "Euler's step first; then look at the slope where it leads.",
        "Two calls: slope(x, now) and slope(euler, after). The step is made once more from x, with their mean.",
        "If after == 0, return Euler's result before the second call. The length of a step is after - now.",
    ),
)


# ------------------------------------------------------------------ a broken run
def broken_case(g: torch.Generator, i: int) -> tuple:
    """(model, xT, alpha_bar, table): a short schedule whose first level is noisy enough to tell from a clean end."""
    alpha_bar = torch.linspace(0.93, 0.02, 24 + i, dtype=torch.float64)
    table = (len(alpha_bar) - 1, 17, 11, 6, 1 if i % 2 else 0)
    pull = float(torch.rand((), generator=g)) + 0.5
    return partial(guess, pull), torch.randn(2 + i, 3, 4, 4, generator=g), alpha_bar, table


def whole_run(
    model, xT, alpha_bar, table, end=1.0, told=lambda t, after: t, read=lambda now, then: now, stop=None, out=None
):
    """DDIM with eta = 0 for a model that answers with x0; `end` is alpha_bar after the last step."""
    xt, table = xT, list(table)
    for t, after in list(zip(table, [*table[1:], -1]))[:stop]:
        now, then = float(alpha_bar[t]), float(alpha_bar[after]) if after >= 0 else float(end)
        x0 = model(xt, torch.full((len(xt),), told(t, after)))
        level = read(now, then)
        eps = (xt - level**0.5 * x0) / (1 - level) ** 0.5
        xt = then**0.5 * x0 + (1 - then) ** 0.5 * eps
    return xt if out is None else out(xt)


BROKEN = Exercise(
    reference=whole_run,
    cases=broken_case,
    mistakes=(
        (
            "the last step still ends in noise: alpha_bar[-1] is the *last* entry of the table. After the last step "
            "nothing is noised: alpha_bar is 1 there.",
            lambda model, xT, alpha_bar, table: whole_run(model, xT, alpha_bar, table, end=alpha_bar[-1]),
        ),
        (
            "nearly: alpha_bar[0] is the first dose of noise, not none, and leaves a trace of it. Before it, it is 1.",
            lambda model, xT, alpha_bar, table: whole_run(model, xT, alpha_bar, table, end=alpha_bar[0]),
        ),
        ("alpha_bar = 0 means noise alone; the clean picture has alpha_bar = 1.", partial(whole_run, end=0.0)),
        (
            "the last visit is left out, and its noise stays in the picture: repair its goal, do not skip it.",
            partial(whole_run, stop=-1),
        ),
        (
            "the model is told the step it goes to; it must hear the step that xt stands at.",
            partial(whole_run, told=lambda t, after: max(after, 0)),
        ),
        (
            "the table runs from the picture to noise here: sampling goes from noise down.",
            lambda model, xT, alpha_bar, table: whole_run(model, xT, alpha_bar, list(table)[::-1]),
        ),
        (
            "the end is clipped to [-1, 1]: noise in that range is still noise. Look at alpha_bar of the last step.",
            lambda model, xT, alpha_bar, table: whole_run(
                model, xT, alpha_bar, table, end=alpha_bar[-1], out=lambda x: x.clamp(-1, 1)
            ),
        ),
    ),
    hints=(
        "Keep x0 of every step and look at it beside xt: which of the two is broken, and from which step on?",
        "All is well until the last step. Print t, t_next and alpha_bar[t_next] there.",
        "In Python an index of -1 is no error: it reads the table's end, the noisiest entry. What is alpha_bar of a "
        "clean picture?",
    ),
)
