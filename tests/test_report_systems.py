"""The tables of all systems side by side: costs that can be counted by hand, one shipped system, cards, bad input."""

import json
import shutil
from functools import partial

import pytest
import torch
from torch import nn

from course_utils import checkpoints, cli
from course_utils.data import to_tensor
from course_utils.errors import CheckpointError, InputError
from course_utils.evaluation import report_systems as side
from course_utils.evaluation.cost import ALL, module_costs, probed
from course_utils.evaluation.intervals import Estimate, Mean, Share
from course_utils.evaluation.prompts import bare_prompts, fixed_prompts
from course_utils.generator.samplers import State
from course_utils.systems.registry import open_system
from course_utils.systems.stage import Stage, System

CPU, N = torch.device("cpu"), 10


# ------------------------------------------------------------------ cost
@pytest.fixture
def tiny():
    """A system whose operations can be counted by hand: a reader 5 x 7, a walk 7 x 7, a decoder 7 x 3; and a tower."""
    read, walk, decode, unused = nn.Linear(5, 7, bias=False), nn.Linear(7, 7), nn.Linear(7, 3), nn.Linear(99, 99)

    def model(prompts, guidance, negative, before):
        context = read(torch.ones(len(prompts), 5))
        return lambda x: walk(x) + context

    def sampler(model, xT, steps):
        for step in range(steps):
            xT = model(xT).tanh()
            yield State(step + 1, steps - 1 - step, xT, xT)

    stages = (
        Stage("prior", (7,), model, sampler, lambda x: x / 2),
        Stage("latents", (7,), model, sampler, decode, steps=2),
    )
    assert unused.weight.numel() == 99**2
    return System(stages, CPU, 3, 1.0)


def test_costs_are_those_counted_by_hand(tiny):
    rows = module_costs(tiny, batch=2, repeats=2, steps=5)
    products = {"text encoder": 35, "prior": 49, "U-Net": 49, "VAE decoder": 21}
    numbers = {"text encoder": 35, "prior": 56, "U-Net": 56, "VAE decoder": 24, ALL: 35 + 56 + 24}
    calls = {"text encoder": 2, "prior": 5, "U-Net": 2, "VAE decoder": 1}
    assert list(rows) == ["text encoder", "prior", "U-Net", "VAE decoder", ALL]
    for module, row in rows.items():
        assert row["parameters"] == pytest.approx(numbers[module] / 1e6), module
        assert row["seconds_picture"] > 0 and row["peak"] > 0
        if module != ALL:
            assert row["calls"] == calls[module] and row["gflop_call"] == pytest.approx(2e-9 * products[module])
    assert rows[ALL]["gflop"] == pytest.approx(sum(2e-9 * products[m] * calls[m] for m in calls))
    assert rows[ALL]["peak"] >= max(row["peak"] for row in rows.values())


def test_a_watched_system_draws_as_ever(tiny):
    seen = []

    class Probe:
        def __init__(self, module):
            seen.append(module)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    watched = System(tuple(probed(stage, Probe) for stage in tiny.stages), CPU, 3, 1.0)
    a, b = ([state.xt for state in system.generate(["a", "b"])] for system in (tiny, watched))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert seen.count("prior") == 3 + 2 and seen.count("VAE decoder") == 1 and seen.count("text encoder") == 2


@pytest.mark.parametrize("given", [{"batch": 0}, {"repeats": 0}, {"steps": 0}])
def test_a_cost_of_nothing_is_refused(tiny, given):
    with pytest.raises(InputError, match=f"{next(iter(given))} must be a whole number from 1"):
        module_costs(tiny, **given)


# ------------------------------------------------------------------ what can be asked of whom
def test_a_scope_is_what_training_showed():
    small, large = side.Scope.of("text-pixel"), side.Scope.of("imagen")
    assert small.within(large) and not large.within(small) and small.within(small)
    assert side.scopes(["imagen", "text-pixel", "stable-diffusion-clip"]) == [small, large]
    assert small.name == f"{len(small.concepts)} things, {len(small.styles)} styles"
    with pytest.raises(InputError, match="unknown system 'vae'"):
        side.Scope.of("vae")


def test_prompts_lie_in_their_scope_in_both_languages_and_begin_alike():
    scope = side.Scope.of("text-pixel")
    prompts = scope.prompts(fixed_prompts, 12)
    assert all(p.concept in scope.concepts and p.style in scope.styles for p in prompts)
    assert [p.text.isascii() for p in prompts] == [True, False] * 6
    assert scope.prompts(fixed_prompts, 5) == prompts[:5]
    assert all(p.concept in scope.concepts for p in scope.prompts(bare_prompts, 4))


# ------------------------------------------------------------------ one shipped system, at its smallest
def bring(folder, name):
    """Put a shipped checkpoint, its card a copy, into a folder."""
    (folder / f"{name}.safetensors").symlink_to(checkpoints.CHECKPOINT_DIR / f"{name}.safetensors")
    shutil.copy(checkpoints.CHECKPOINT_DIR / f"{name}.json", folder)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """text-pixel alone in a folder, measured with one step, kept in its card: the folder, the tables, what was said."""
    folder, said = tmp_path_factory.mktemp("checkpoints"), []
    bring(folder, "text-pixel")
    side.yardstick.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(side, "KNOWN", 40)
        patch.setattr(side, "module_costs", partial(module_costs, batch=1, repeats=2))
        found = side.evaluate_systems(N, folder, steps=1, tell=said.append)
        found.keep(folder)
        yield folder, found, said
    side.yardstick.cache_clear()


def test_a_system_is_measured_beside_real_pictures(measured):
    _, found, _ = measured
    assert list(found.cost) == ["text-pixel"] and set(found.cost["text-pixel"]) == {"text encoder", "U-Net", ALL}
    (rows,) = found.quality.values()
    assert list(rows) == ["text-pixel", *side.REAL]
    for name, row in rows.items():
        assert {"concept", "style", "color", "background", "clip", "fid", "kid", "distance", "n"} <= set(row), name
        assert row["kid"].low <= row["kid"] <= row["kid"].high and row["distance"].low > 0 and row["n"] == N
    mine, shown, new = rows.values()
    assert mine["diversity"].low >= 0 and shown["concept"] > 0.8
    assert new["fid"] < shown["fid"] and shown["distance"] < new["distance"], "what was shown lies nearer to training"


def test_systems_without_checkpoints_are_left_out_in_one_sentence(measured):
    _, _, said = measured
    assert len(said) == len(side.SHOWN) - 1 and not any("\n" in sentence for sentence in said)
    missing = next(sentence for sentence in said if sentence.startswith("imagen is left out"))
    assert "no checkpoint 'imagen-base' yet" in missing and "course train imagen-base" in missing


def test_a_folder_without_systems_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint 'stable-diffusion'"):
        side.evaluate_systems(N, tmp_path)


def test_the_card_keeps_both_tables_and_all_that_it_held(measured):
    folder, found, _ = measured
    before, after = (json.loads((f / "text-pixel.json").read_text()) for f in (checkpoints.CHECKPOINT_DIR, folder))
    for key in (side.COST, side.QUALITY):
        before.pop(key, None)
    cost, quality = after.pop(side.COST), after.pop(side.QUALITY)
    assert after == before and set(cost) >= set(found.cost["text-pixel"])
    (scope,) = found.quality
    assert {scope, *(f"{scope}: {real}" for real in side.REAL)} <= set(quality)
    assert quality[scope]["fid"] == round(found.quality[scope]["text-pixel"]["fid"], 3)
    assert "clip_interval" in quality[scope] and "fid_interval" not in quality[scope]


@pytest.mark.parametrize("broken", [{"U-Net": {"gflop": None}}, {"U-Net": {"gflop_interval": [1]}}, [1]], ids=str)
def test_a_damaged_table_is_a_damaged_card(tmp_path, broken):
    bring(tmp_path, "text-pixel")
    path = tmp_path / "text-pixel.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {side.COST: broken}))
    with pytest.raises(CheckpointError, match="text-pixel.json is damaged"):
        checkpoints.card("text-pixel", tmp_path)


def test_both_tables_are_printed_with_a_heading_each(measured):
    _, found, _ = measured
    cost, quality = found.text().split("\n\n")
    assert cost.splitlines()[0] == "cost by module" and "GFLOP a picture" in cost and "text-pixel: U-Net" in cost
    assert quality.splitlines()[0] in found.quality and "Fréchet" in quality and "real, held out" in quality
    assert len({len(line) for line in quality.splitlines()[1:]}) == 1


# ------------------------------------------------------------------ a part, drawn again
def test_the_same_prompts_and_noise_draw_what_the_card_says(measured):
    folder, found, _ = measured
    again = side.redraw("text-pixel", N, folder=folder, steps=1)
    (rows,) = found.quality.values()
    assert again.now and all(again.agrees.values()) and again.x.shape == (N, 3, 32, 32)
    assert all(value == pytest.approx(rows["text-pixel"][key], abs=1e-3) for key, value in again.now.items())
    assert f"drawn now, {N} prompts" in again.text() and again.text().endswith("all agree within their intervals")
    part = side.redraw("text-pixel", 3, folder=folder, steps=1)
    assert part.prompts == again.prompts[:3] and (part.x - again.x[:3]).abs().max() < 0.05


def test_other_pictures_than_the_card_s_are_found_out(measured):
    folder, _, _ = measured
    kept = {"concept": Share(0.1, 0.05, 0.2), "clip": Mean(1.9, 1.8, 2.0), "n": Estimate(200)}
    now = {"concept": Share(0.9, 0.8, 0.95), "clip": Mean(2.0, 1.95, 2.05)}
    other = side.Redrawn([], torch.zeros(2, 3, 8, 8), now, kept)
    assert other.agrees == {"concept": False, "clip": True} and other.text().endswith("intervals: concept")


def test_estimates_overlap_where_their_intervals_meet():
    assert side.overlap(Mean(1, 0, 2), Mean(3, 2, 4)) and not side.overlap(Mean(1, 0, 2), Mean(3, 2.1, 4))
    assert side.overlap(Estimate(1), Mean(3, 1, 4)) and not side.overlap(Estimate(1), Estimate(1.1))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"system": "vae"}, InputError, "unknown system 'vae'"),
        ({"system": "text-pixel", "n": 1}, InputError, "prompts must be a whole number from 2"),
        (
            {"system": "text-pixel", "scope": side.Scope(frozenset(["yeti"]), ("noto",))},
            InputError,
            "was shown .* things",
        ),
        ({"system": "imagen"}, CheckpointError, "no checkpoint 'imagen-base'"),
    ],
    ids=str,
)
def test_what_cannot_be_redrawn_is_refused_in_one_sentence(tmp_path, given, error, words):
    with pytest.raises(error, match=words):
        side.redraw(**given, folder=tmp_path)


def test_a_card_without_the_table_says_how_to_make_it(tmp_path):
    bring(tmp_path, "text-pixel")
    path = tmp_path / "text-pixel.json"
    card = json.loads(path.read_text())
    card.pop(side.QUALITY, None)
    path.write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="course evaluate --all --write"):
        side.redraw("text-pixel", folder=tmp_path)


# ------------------------------------------------------------------ the command
def test_the_command_prints_and_keeps_on_request(measured, tmp_path, monkeypatch, capsys):
    _, found, _ = measured
    bring(tmp_path, "text-pixel")
    before, asked = checkpoints.card("text-pixel", tmp_path), []

    def evaluate_systems(n, folder, device, tell, progress):
        asked.append((n, folder, device))
        tell("imagen is left out: it is not here")
        return found

    monkeypatch.setattr(side, "evaluate_systems", evaluate_systems)
    command = ["evaluate", "--all", "--from", str(tmp_path), "--device", "cpu"]
    assert cli.main(command) == 0 and checkpoints.card("text-pixel", tmp_path) == before
    said = capsys.readouterr()
    assert said.out.strip() == found.text() and said.err == "course: note: imagen is left out: it is not here\n"
    assert cli.main([*command, "--prompts", "20", "--write"]) == 0
    assert set(checkpoints.card("text-pixel", tmp_path)) >= {side.COST, side.QUALITY}
    assert asked == [(side.PROMPTS, str(tmp_path), "cpu"), (20, str(tmp_path), "cpu")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["text-pixel", "--all"], ["leave text-pixel out"]),
        (["--all", "--steps", "3"], ["leave --steps out"]),
        (["--all", "--seed", "0"], ["leave --seed out"]),
        (["--all", "--guidance", "2"], ["leave --guidance out"]),
        (["--all", "--prompts", "9"], ["prompts must be a whole number from 10 to 400, not 9"]),
        (["--all", "--from", "no-such-folder"], ["no checkpoint 'stable-diffusion'"]),
    ],
    ids=" ".join,
)
def test_what_the_command_cannot_do_is_refused_in_one_sentence(arguments, words, capsys):
    assert cli.main(["evaluate", *arguments]) == 2
    said = capsys.readouterr()
    assert not said.out and len(said.err.splitlines()) == 1 and all(word in said.err for word in words), said.err


def test_probes_leave_the_shipped_system_s_pictures_alone():
    system = open_system("text-pixel", "cpu")
    drawn = to_tensor(system.draw("panda", steps=1))
    module_costs(system, batch=1, repeats=1, steps=1)
    assert torch.equal(drawn, to_tensor(system.draw("panda", steps=1)))
