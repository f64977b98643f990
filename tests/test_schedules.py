"""Every number of steps gives a table of that many steps, and every schedule ends in noise, whatever T is."""

import math

import numpy as np
import pytest
import torch

from course_utils.errors import InputError
from course_utils.generator import objectives, samplers
from course_utils.generator.schedules import BETAS, make_schedule

TABLES = {"timesteps": samplers.timesteps, "solver_timesteps": samplers.solver_timesteps}


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------ which steps are visited
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("offset", [0, 1, 7])
@pytest.mark.parametrize("spacing", samplers.SPACINGS)
@pytest.mark.parametrize("T", [25, 60, 333, 1000])
def test_every_number_of_steps_is_that_many_steps_from_noise_to_picture(T, spacing, offset, table):
    for S in range(1, T + 1):
        t = table(S, T, spacing, offset).tolist()
        assert len(set(t)) == S == len(t) and t == sorted(t, reverse=True), S
        assert t[-1] >= 0 and t[0] <= T - 1, S
        assert t[0] == T - 1 if spacing != "leading" else t[0] >= T - 2 * T / S, S  # two strides: its own, and a rest
        if S > 1:  # no gap is wider than two strides
            assert max(a - b for a, b in zip(t, t[1:], strict=False)) <= 2 * T / S, S


def test_where_our_tables_are_not_those_of_diffusers():
    """Its own are kept wherever they have S entries in 0 ... T-1 and begin near T; halves are rounded to even."""
    import diffusers

    short = []
    for spacing in samplers.SPACINGS:
        theirs = diffusers.DDIMScheduler(timestep_spacing=spacing)
        for S in range(1, 1001):
            theirs.set_timesteps(S)
            ours, table = samplers.timesteps(S, spacing=spacing).numpy(), theirs.timesteps.numpy()
            if spacing == "leading":
                assert np.array_equal(ours, table) == (1000 - S * (1000 // S) < 1000 // S or ours[0] == table[0]), S
            elif len(table) != S:
                short.append(S)
                assert spacing == "trailing" and table[-1] == -1
                assert np.abs(ours - table[:-1]).max() <= 1, S
            elif (spacing, S) != ("linspace", 1):
                assert np.abs(ours - table).max() <= 1, S
    assert len(short) == 62 and 61 in short


@pytest.mark.parametrize("steps", [61, 112, 334])
@pytest.mark.parametrize("spacing", samplers.SPACINGS)
@pytest.mark.parametrize("sampler", [samplers.ddim, samplers.dpmpp_2m])
def test_numbers_of_steps_that_used_to_fail_follow_the_exact_score(sampler, spacing, steps):
    """Data N(0.4, 0.3^2): the exact noise predictor leads pure noise to them, in any number of steps."""
    schedule = make_schedule("linear")

    def eps(xt, t):
        signal, sigma = schedule.at(t, xt)
        return sigma * (xt - signal * 0.4) / (signal**2 * 0.09 + sigma**2)

    options = {"steps": steps, "spacing": spacing, "clip": False, "generator": torch.Generator().manual_seed(1)}
    x = samplers.sample(sampler, eps, noise(2000, 1).double(), schedule, **options)
    assert abs(float(x.mean()) - 0.4) < 0.03 and abs(float(x.std()) - 0.3) < 0.03


def test_an_own_table_must_fall_and_lie_within_the_schedule():
    for table in ([900, 500, 0], np.array([900, 500, 0]), torch.tensor([900, 500, 0])):
        assert samplers.timesteps(3, spacing=table).tolist() == [900, 500, 0]
        assert samplers.solver_timesteps(3, spacing=table).tolist() == [900, 500, 0]
    wrong = [[0, 500], [5, 5], [1000, 0], [3, -1], [], [2.5, 1.0], [[1, 0]], [True, False]]
    for table in wrong:
        with pytest.raises(InputError, match="a table of whole numbers that falls from at most 999"):
            samplers.timesteps(3, spacing=table)


@pytest.mark.parametrize("steps", [np.int64(5), torch.tensor(5), np.uint8(5)])
def test_a_number_of_steps_may_come_from_numpy_or_torch(steps):
    assert torch.equal(samplers.timesteps(steps), samplers.timesteps(5))


@pytest.mark.parametrize("offset", [-1, 1.5, 1000])
def test_an_offset_out_of_range(offset):
    with pytest.raises(InputError, match="offset must be a whole number from 0 to 999"):
        samplers.timesteps(10, offset=offset)


# ------------------------------------------------------------------ how much noise
@pytest.mark.parametrize("name", BETAS)
@pytest.mark.parametrize("T", [100, 250, 4000])
def test_a_schedule_of_another_length_ends_as_noisy(name, T):
    ends = [float(make_schedule(name, T).alpha_bar[-1]) ** 0.5 for T in (T, 1000)]
    assert all(end < 0.08 for end in ends)
    middle = [float(make_schedule(name, T).alpha_bar[T // 2]) ** 0.5 for T in (T, 1000)]
    assert abs(middle[0] - middle[1]) < 0.03  # and is as noisy on the way


@pytest.mark.parametrize("num_steps", [24, 0, 2.5, "many", True])
def test_a_schedule_needs_a_whole_number_of_steps(num_steps):
    with pytest.raises(InputError, match="num_steps must be a whole number from 25"):
        make_schedule("linear", num_steps)
    assert make_schedule("linear", np.int64(50)).num_steps == 50


# ------------------------------------------------------------------ where nothing is left of the picture
@pytest.mark.parametrize(("prediction", "weight"), [("eps", 1.0), ("x0", 0.0), ("v", 0.0)])
def test_min_snr_weight_at_noise_alone_is_the_limit(prediction, weight):
    schedule = make_schedule("linear", zero_snr=True)
    t = torch.tensor([0, 500, 998, 999])
    weights = objectives.min_snr_weight(t, schedule, prediction)
    assert torch.isfinite(weights).all() and math.isclose(float(weights[-1]), weight, abs_tol=1e-6)
    assert abs(float(weights[-1] - weights[-2])) < 1e-2


@pytest.mark.parametrize("sampler", [samplers.ddpm, samplers.ddim, samplers.dpmpp_2m])
def test_eps_from_noise_alone_is_refused_in_one_sentence(sampler):
    schedule = make_schedule("linear", zero_snr=True)
    with pytest.raises(InputError, match="noise alone says nothing of a picture: predict x0 or v"):
        next(sampler(lambda xt, t: xt, noise(2, 3, 4, 4), schedule, 5, "eps", spacing="trailing"))
    for prediction in ("x0", "v"):
        states = list(sampler(lambda xt, t: 0.1 * xt, noise(2, 3, 4, 4), schedule, 5, prediction, spacing="trailing"))
        assert torch.isfinite(states[-1].xt).all()


# ------------------------------------------------------------------ a guest after every step
@pytest.mark.parametrize("sampler", [samplers.ddpm, samplers.ddim, samplers.dpmpp_2m])
def test_after_step_sees_every_state_and_decides_what_holds(sampler):
    seen = []

    def after_step(xt, t):
        seen.append(t)
        return torch.full_like(xt, len(seen))

    states = list(
        sampler(lambda xt, t: xt, noise(1, 3, 4, 4), make_schedule(), 4, spacing="trailing", after_step=after_step)
    )
    assert seen == [749, 499, 249, -1]
    assert [float(state.xt.unique()) for state in states] == [1, 2, 3, 4]


@pytest.mark.parametrize("xT", [None, np.zeros((1, 3, 4, 4)), torch.zeros(1, 3, dtype=torch.long), torch.zeros(0, 3)])
def test_a_sampler_says_what_it_begins_with(xT):
    for sampler in (samplers.ddpm, samplers.ddim, samplers.dpmpp_2m):
        with pytest.raises(InputError, match=r"sampling begins with noise: a tensor \(B, ...\) of floats"):
            next(sampler(lambda xt, t: xt, xT, make_schedule(), 4))
