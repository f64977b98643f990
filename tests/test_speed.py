"""What makes training fast changes nothing else: batches made ahead, bfloat16, losses read now and then."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from test_training import tiny, tiny_batch, train_until

from course_utils import prefetch
from course_utils.errors import CourseError, DataError
from course_utils.prefetch import Batches, workers_for
from course_utils.recipes import evaluator
from course_utils.training import DivergedError, Tally, train


def weights(state):
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


# ------------------------------------------------------------------ batches made ahead
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_is_the_same_with_batches_made_ahead(tmp_path, workers):
    """Batches, and what the loss draws after them: equal to the last bit, in one run or resumed."""
    whole = weights(train_until(6, tiny()))
    assert torch.equal(whole, weights(train_until(6, tiny(), workers=workers)))
    train_until(3, tiny(), workers=workers, run_dir=tmp_path)
    assert torch.equal(whole, weights(train_until(6, tiny(), workers=workers, run_dir=tmp_path, resume=True)))


def test_composed_pictures_are_the_same_from_a_worker():
    """A recipe of the course: pictures drawn by Pillow, bent, and their labels."""
    here, ahead = (Batches(evaluator.batch, lambda step: 7 + step, workers) for workers in (0, 1))
    for step in range(3):
        (a, first), (b, second) = here.take(step, 4), ahead.take(step, 4)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        assert torch.equal(torch.rand(9, generator=first), torch.rand(9, generator=second))
    ahead.close()


def test_batches_ahead_leave_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    batches = Batches(tiny_batch, int, workers=1)
    batches.take(0, 2)
    assert torch.equal(torch.rand(3), expected)
    batches.close()


def test_an_error_in_a_worker_keeps_its_sentence():
    def batch(generator, n):
        if generator.initial_seed() == 2:
            raise DataError("the pictures are gone: fetch them again")
        return tiny_batch(generator, n)

    batches = Batches(batch, int, workers=1)
    batches.take(0, 2), batches.take(1, 2)
    with pytest.raises(DataError) as caught:
        batches.take(2, 2)
    assert str(caught.value) == "the pictures are gone: fetch them again"
    assert not psutil.Process().children()


def test_memory_that_runs_out_in_a_worker_halves_the_batch():
    def batch(generator, n):
        if n > 3 and generator.initial_seed() > 2:
            raise MemoryError
        return tiny_batch(generator, n)

    with pytest.warns(UserWarning, match="batches of 2"):
        state = train_until(6, dataclasses.replace(tiny(), batch=batch), workers=1)
    assert state.step == 6 and state.pictures == 3 * 8 + 3 * 2


def test_a_worker_that_is_killed_is_told():
    run = train(tiny(), 5, device="cpu", workers=1)
    next(run)
    (worker,) = psutil.Process().children()
    worker.kill()
    with pytest.raises(CourseError, match="makes the batches was ended from outside"):
        for _ in range(100):
            next(run)


STOPPED = """
import sys; sys.path[:0] = [{tests!r}]
import psutil
from test_training import tiny
from course_utils.training import train
for state in train(tiny(), 5, run_dir={folder!r}, device="cpu", workers=1):
    if state.step == 2:
        print(psutil.Process().children()[0].pid, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_training(tmp_path, how):
    script = STOPPED.format(tests=os.path.dirname(__file__), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=-1, stderr=-1, text=True)
    worker = int(process.stdout.readline())
    process.send_signal(how)
    process.communicate()
    for _ in range(600):  # an orphan looks for its parent every few seconds
        if not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the worker is still there")
    assert (tmp_path / "tiny.run.safetensors").exists() == (how == signal.SIGINT)


def test_workers_for_what_can_be_sent(monkeypatch):
    """Where workers start from nothing, a batch of a notebook's cell, which none could import, is made by training."""
    cpu = torch.device("cpu")
    assert workers_for(cpu, tiny_batch) <= 1
    monkeypatch.setattr(prefetch, "START_METHOD", "spawn")
    assert workers_for(cpu, lambda generator, n: {}) == 0
    assert workers_for(cpu, evaluator.batch) <= 1


# ------------------------------------------------------------------ precision
def last_losses(seed, steps=200):
    """The smoothed loss after some steps at a rate that does not fall."""
    return train_until(steps, dataclasses.replace(tiny(), decay=0.0), minutes=60, seed=seed).loss


def test_bfloat16_learns_as_well_as_float32(monkeypatch):
    """After 200 steps its loss lies within what three seeds of float32 span, and half as much on either side."""
    monkeypatch.setenv("COURSE_PRECISION", "float32")
    plain = [last_losses(seed) for seed in range(3)]
    monkeypatch.setenv("COURSE_PRECISION", "bf16")
    rounded, noise = last_losses(0), max(plain) - min(plain)
    assert rounded != plain[0]  # it was another computation
    assert min(plain) - noise / 2 <= rounded <= max(plain) + noise / 2


def test_weights_average_and_moments_stay_in_float32(monkeypatch, tmp_path):
    from safetensors.torch import load_file

    monkeypatch.setenv("COURSE_PRECISION", "bf16")
    train_until(2, tiny(), run_dir=tmp_path)
    assert {x.dtype for x in load_file(tmp_path / "tiny.run.safetensors").values()} == {torch.float32}


# ------------------------------------------------------------------ failed steps
def failing(*steps):
    """The tiny recipe whose loss is not a number in some steps, counted from 1."""
    calls = []

    def loss(model, batch, generator):
        calls.append(1)
        return tiny().loss(model, batch, generator) * (float("nan") if len(calls) in steps else 1.0)

    return dataclasses.replace(tiny(), loss=loss)


def test_a_step_without_a_finite_loss_is_skipped_and_counted():
    before = weights(train_until(2, failing(3, 4)))
    after = train_until(4, failing(3, 4))
    assert after.skipped == 2 and torch.equal(before, weights(after))
    assert torch.isfinite(torch.tensor(train_until(6, failing(3, 4, 6)).loss))


def test_an_infinite_gradient_is_skipped():
    class Steep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("inf")

    recipe = dataclasses.replace(tiny(), loss=lambda *args: Steep.apply(tiny().loss(*args)))
    state = train_until(2, recipe)
    assert state.skipped == 2 and torch.isfinite(weights(state)).all() and state.loss == 0


def test_three_failed_steps_stop_the_run_and_leave_what_was_saved(tmp_path):
    good = weights(train_until(4, tiny(), run_dir=tmp_path))
    with pytest.raises(DivergedError, match="came apart by step 7: 3 steps in a row had no finite loss") as caught:
        train_until(9, failing(1, 2, 3), run_dir=tmp_path, resume=True)
    assert isinstance(caught.value, CourseError)
    recipe = tiny()
    run = train(recipe, 1, run_dir=tmp_path, device="cpu", resume=True, weights=recipe.model().state_dict())
    state = next(run)
    run.close()
    assert state.step == 5 and state.skipped == 0
    assert torch.equal(weights(state), weights(train_until(5, tiny())))
    assert not torch.equal(weights(state), good)


def test_the_tally_equals_plain_numbers():
    tally, loss, row, worst, skipped = Tally("cpu"), 0.0, 0, 0, 0
    for step, value in enumerate([3.0, 2.0, float("nan"), float("inf"), 1.0, float("nan"), 0.5]):
        failed, smooth = not torch.isfinite(torch.tensor(value)), step / (step + 1)
        tally.add(torch.tensor(value), torch.tensor(failed), smooth)
        loss = loss if failed else smooth * loss + (1 - smooth) * value
        row, skipped = (row + 1) * failed, skipped + failed
        worst = max(worst, row)
    assert float(tally.loss) == pytest.approx(loss)
    assert (int(tally.skipped), int(tally.worst)) == (skipped, worst) == (3, 2)


# ------------------------------------------------------------------ what came before
def test_a_run_remembers_what_it_began_with(tmp_path):
    before = {"steps": 1200, "minutes": 7.5, "pictures": 38400, "history": [{"steps": 1200}]}
    assert train_until(2, tiny(), run_dir=tmp_path, before=before).before == before
    assert train_until(4, tiny(), run_dir=tmp_path, resume=True).before == before
    assert train_until(2, tiny()).before is None


def test_the_rate_falls_in_the_part_the_recipe_names():
    def rates(decay):
        return [state.lr for state in train(dataclasses.replace(tiny(), decay=decay), 0.01, device="cpu")]

    assert set(rates(0.0)) == {2e-3}
    falling = rates(1.0)
    assert falling == sorted(falling, reverse=True) and falling[-1] < falling[0]
