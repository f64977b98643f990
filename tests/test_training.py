"""Training: the budget, the average, and above all that nothing is lost when it is killed."""

import inspect
import json
import os
import signal
import subprocess
import sys
from itertools import islice

import pytest
import torch

from course_utils.errors import CheckpointError
from course_utils.generator.objectives import diffusion_loss
from course_utils.generator.schedules import make_schedule
from course_utils.generator.unet import UNet
from course_utils.runs import load_run, read_progress
from course_utils.training import EMA, Recipe, learning_rate, train

SCHEDULE = make_schedule("cosine")


def tiny_batch(generator, n):
    """Bright discs at random places: something a tiny network can learn in seconds."""
    place = torch.rand(n, 2, 1, 1, generator=generator) - 0.5
    grid = torch.linspace(-1, 1, 8)
    distance = (grid[None, :, None] - place[:, :1, 0]) ** 2 + (grid[None, None, :] - place[:, 1:, 0]) ** 2
    return {"x0": (distance < 0.3).float()[:, None] * 2 - 1}


def tiny(name="tiny", **options):
    """A whole recipe at the smallest size."""
    return Recipe(
        name,
        "discs",
        lambda: UNet(1, 1, (8,), 1, (False,), mid_attention=False, groups=4),
        tiny_batch,
        lambda model, batch, generator: diffusion_loss(model, batch["x0"], SCHEDULE, "x0", generator),
        batch_size=8,
        lr=2e-3,
        **options,
    )


def train_until(step, recipe, minutes=1, **options):
    """Train up to a step, close the run (which saves it), return the last state."""
    state = None
    for state in train(recipe, minutes, device="cpu", **options):
        if state.step == step:
            break
    return state


def test_it_learns():
    states = list(islice(train(tiny(), minutes=60, device="cpu"), 400))
    assert states[-1].loss < 0.7 * states[0].loss


def test_it_ends_with_its_budget():
    states = list(train(tiny(), minutes=0.05, device="cpu"))
    last = states[-1]
    assert last.step == len(states) and last.pictures == 8 * last.step and last.pictures_per_s > 0
    assert last.seconds >= last.budget == 3 and all(state.seconds < 3 for state in states[:-1])


def test_rate_is_constant_then_falls_to_zero():
    assert [learning_rate(f, 2.0) for f in (0, 0.5, 0.8)] == pytest.approx([2.0, 2.0, 2.0])
    assert learning_rate(0.9, 2.0) == pytest.approx(1.0) and learning_rate(1.0, 2.0) == 0
    assert learning_rate(0.75, 2.0, decay=0.5) == pytest.approx(1.0) and learning_rate(1.0, 2.0, decay=0.0) == 2.0


def test_average_equals_diffusers():
    from diffusers.training_utils import EMAModel

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 3)
    ours, theirs = EMA(model, 0.99), EMAModel(model.parameters(), decay=0.99, use_ema_warmup=False)
    for _ in range(50):
        with torch.no_grad():
            model.weight.add_(torch.randn(3, 3))
        ours.update(model)
        theirs.step(model.parameters())
    for mine, peer in zip(ours.model.parameters(), theirs.shadow_params, strict=True):
        assert torch.allclose(mine, peer, atol=1e-5)


def test_resume_goes_on_exactly(tmp_path):
    """What was saved is what comes back: weights, average, moments, step and time used."""
    recipe = tiny()
    state = train_until(12, recipe, run_dir=tmp_path)
    network, ema = state.model, state.ema
    run = train(recipe, 1, run_dir=tmp_path, device="cpu", resume=True)
    fresh = recipe.model()
    optimizer = torch.optim.AdamW(fresh.parameters())
    average = EMA(fresh)
    progress = load_run(tmp_path / "tiny.run.safetensors", fresh, average, optimizer)
    assert progress["step"] == 12 and progress["pictures"] == 96
    for a, b in zip(fresh.parameters(), network.parameters(), strict=True):
        assert torch.equal(a, b)
    for a, b in zip(average.model.parameters(), ema.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(float(m["step"]) == 12 for m in optimizer.state_dict()["state"].values())
    following = next(run)
    assert following.step == 13 and following.seconds >= progress["seconds"]
    run.close()


def test_a_step_draws_the_same_batch_whenever_it_is_taken(tmp_path):
    """A resumed run sees the batches that the unbroken one would have seen."""
    seen = []

    def batch(generator, n):
        data = tiny_batch(generator, n)
        seen.append(float(data["x0"].sum()))
        return data

    recipe = Recipe("tiny", "discs", tiny().model, batch, tiny().loss, batch_size=8, lr=1e-3)

    def steps(until, **options):
        seen.clear()
        train_until(until, recipe, **options)
        return list(seen)

    whole = steps(6)
    parts = steps(3, run_dir=tmp_path) + steps(6, run_dir=tmp_path, resume=True)
    assert parts == whole


KILLED = """
import sys; sys.path[:0] = [{tests!r}]
from test_training import tiny
from course_utils.training import train
for state in train(tiny(), 5, run_dir={folder!r}, device="cpu", save_every=0.0):
    print(state.step, flush=True)
"""


def test_a_kill_loses_only_what_came_after_the_last_save(tmp_path):
    """SIGKILL leaves no chance to save; what the run saved by itself, here after each step, is whole."""
    script = KILLED.format(tests=os.path.dirname(__file__), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    while int(process.stdout.readline()) < 20:
        pass
    process.send_signal(signal.SIGKILL)
    rest = process.communicate()[0].split()
    step = int(rest[-1]) if rest else 20
    state = next(run := train(tiny(), 5, run_dir=tmp_path, device="cpu", resume=True))
    run.close()
    assert step <= state.step <= step + 1  # the resumed run took one more than was saved


LAUNCHED = """
import sys; sys.path[:0] = [{tests!r}]
import json, torch
from test_training import tiny
from course_utils.training import train
state = None
for state in train(tiny(), 0.06, device="cpu"):
    pass
weights = torch.cat([p.detach().flatten() for p in state.model.parameters()])
row = [state.step, state.pictures, float(weights.sum()), float(weights.abs().sum())]
open({folder!r} + f"/{{__import__('os').environ['RANK']}}.json", "w").write(json.dumps(row))
"""


def test_two_processes_train_one_network(tmp_path):
    """Several processes see different pictures and end with the same weights."""
    script = tmp_path / "launched.py"
    script.write_text(LAUNCHED.format(tests=os.path.dirname(__file__), folder=str(tmp_path)))
    # torchrun sets what `accelerate launch` sets; the latter asks for MPI when there is no GPU
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    a, b = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert a == b
    assert a[1] == 16 * a[0]  # 8 pictures a step in each of two processes


def test_out_of_memory_halves_the_batch():
    """Memory that runs out above 3 pictures: the step is taken with 2, and the learner is told."""

    def loss(model, batch, generator):
        if len(batch["x0"]) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return tiny().loss(model, batch, generator)

    recipe = Recipe("tiny", "discs", tiny().model, tiny_batch, loss, batch_size=8, lr=1e-3)
    with pytest.warns(UserWarning, match="batches of 2"):
        state = next(train(recipe, 1, device="cpu"))
    assert state.pictures == 2


def test_what_cannot_be_resumed_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="no run of 'tiny' to resume"):
        next(train(tiny(), 1, run_dir=tmp_path, device="cpu", resume=True))
    (tmp_path / "tiny.run.safetensors").write_bytes(b"not a run")
    with pytest.raises(CheckpointError, match="delete it and train anew"):
        next(train(tiny(), 1, run_dir=tmp_path, device="cpu", resume=True))


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_minutes_must_be_positive(minutes):
    with pytest.raises(ValueError, match="minutes must be more than 0"):
        next(train(tiny(), minutes, device="cpu"))


def test_training_can_begin_with_given_weights():
    trained = train_until(5, tiny()).model.state_dict()
    first = next(train(tiny(), 1, seed=3, device="cpu", weights=trained)).ema.state_dict()  # one step at the full rate
    moved = sum(float((first[k] - trained[k]).abs().sum()) for k in trained)
    fresh = next(train(tiny(), 1, seed=3, device="cpu")).ema.state_dict()
    assert 0 < moved < 0.5 * sum(float((fresh[k] - trained[k]).abs().sum()) for k in trained)


def test_same_seed_same_run():
    def weights(seed):
        state = train_until(5, tiny(), seed=seed)
        return torch.cat([p.detach().flatten() for p in state.model.parameters()])

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))


def test_a_run_with_broken_weights_or_without_its_progress_is_not_resumed(tmp_path):
    from safetensors.torch import load_file, save_file

    train_until(2, tiny(), run_dir=tmp_path)
    path = tmp_path / "tiny.run.safetensors"
    tensors, whole = load_file(path), json.dumps({"step": 2, "seconds": 1.0, "pictures": 16})
    broken = {**tensors, "model.conv_in.bias": torch.full_like(tensors["model.conv_in.bias"], float("nan"))}
    for content, progress in ((broken, whole), (tensors, "[]"), (tensors, "{"), (tensors, '{"step": "two"}')):
        save_file(content, path, {"progress": progress})
        with pytest.raises(CheckpointError, match="delete it and train anew"):
            next(train(tiny(), 1, run_dir=tmp_path, device="cpu", resume=True))
        assert read_progress(path) == (json.loads(whole) if progress == whole else {})


def test_a_run_is_saved_at_least_once_a_minute():
    assert inspect.signature(train).parameters["save_every"].default <= 60


def test_the_learning_curve_has_points_and_goes_on_after_a_resume(tmp_path, monkeypatch):
    monkeypatch.setattr("course_utils.training.POINT_EVERY", 0.2)
    first = train_until(10**9, tiny(), minutes=0.5 / 60, run_dir=tmp_path)
    then = train_until(10**9, tiny(), minutes=1.0 / 60, run_dir=tmp_path, resume=True)
    assert len(first.curve) >= 2 and then.curve[: len(first.curve)] == first.curve
    pictures = [point["pictures"] for point in then.curve]
    assert pictures == sorted(pictures) and pictures[-1] == then.pictures
    assert then.curve[-1]["loss"] == pytest.approx(then.loss, abs=1e-4)


def test_the_card_tells_the_whole_learning_curve():
    from types import SimpleNamespace

    from course_utils.app.train import describe, show_states

    def states():
        curve = []
        for i in range(4):
            if i in (1, 3):
                curve.append({"minutes": float(i), "pictures": 10 * i, "loss": 0.5})
            yield SimpleNamespace(
                step=i,
                pictures=10 * i,
                seconds=60 * i,
                seconds_left=0,
                loss=0.5,
                curve=curve,
                pictures_per_s=1,
                ema=i,
                before={
                    "steps": 5,
                    "pictures": 100,
                    "minutes": 7.0,
                    "history": "",
                    "curve": [{"minutes": 7.0, "pictures": 100, "loss": 0.9}],
                },
            )

    from tqdm import tqdm

    with tqdm(total=180, disable=True) as bar:
        last = show_states(states(), bar, watch=lambda network: {"R@1": network / 10})
    card = describe(tiny(), last, torch.device("cpu"), seed=0)
    assert card["curve"] == [
        {"minutes": 7.0, "pictures": 100, "loss": 0.9},
        {"minutes": 8.0, "pictures": 110, "loss": 0.5, "R@1": 0.1},
        {"minutes": 10.0, "pictures": 130, "loss": 0.5, "R@1": 0.3},
    ]


def test_matrices_decay_and_named_parameters_learn_faster():
    from course_utils.training import parameter_groups

    network = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 4))
    groups = parameter_groups(network, tiny(faster={"0.": 10.0}, weight_decay=0.2))
    told = {(g["faster"], g["weight_decay"]): [tuple(p.shape) for p in g["params"]] for g in groups}
    assert told == {(10.0, 0.2): [(5, 4)], (1.0, 0.2): [(4, 4)], (1.0, 0.0): [(4,)]}


def test_a_faster_group_takes_larger_steps():
    recipe = tiny(faster={"conv_in.weight": 10.0})
    torch.manual_seed(0)
    before = {key: value.clone() for key, value in recipe.model().state_dict().items()}
    state = next(iter(train(recipe, minutes=1, device="cpu")))
    moved = {key: (state.model.state_dict()[key] - value).abs().max() for key, value in before.items()}
    assert moved["conv_in.weight"] == pytest.approx(10 * float(moved["conv_out.weight"]), rel=0.05)
