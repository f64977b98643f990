"""The stand-ins for DreamBooth's metrics: right on real pictures, and right about what they are told is wrong."""

import numpy as np
import pytest
import torch

from course_utils import checkpoints
from course_utils.data import load_emoji, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.datasets.xp7 import load_xp7
from course_utils.decoder.perceptual import FeatureNet, perceptual_distance
from course_utils.evaluation.evaluator import load_evaluator
from course_utils.evaluation.fidelity import fidelity, prompt_diversity, prompt_fidelity, similarity
from course_utils.evaluation.metrics import extract_features

CARS = [("automobile", style) for style in ("noto", "twemoji", "fluent")] + [
    ("sport utility vehicle", "fluent"),
    ("taxi", "noto"),
    ("oncoming police car", "noto"),
    ("racing car", "fluent"),
]
THINGS = [("panda", "noto"), ("frog", "twemoji"), ("green apple", "fluent"), ("hamburger", "noto")]


@pytest.fixture(scope="module")
def judge():
    return load_evaluator()


@pytest.fixture(scope="module")
def net():
    return checkpoints.load("perceptual", FeatureNet())


@pytest.fixture(scope="module")
def taught():
    return to_tensor(load_xp7("train").pictures)


@pytest.fixture(scope="module")
def unseen():
    return to_tensor(load_xp7("unseen").pictures)


@pytest.fixture(scope="module")
def scenes():
    return [meta["background"] for meta in load_xp7("unseen").meta]


@pytest.fixture(scope="module")
def composer():
    return Composer(load_emoji(64, split="all"), min_scale=1.0)


def drawn(composer, wanted, scenes):
    """The same emoji on each of some scenes, (len(scenes), 3, 64, 64)."""
    keys = [(meta["concept"], meta["style"]) for meta in composer.emoji.meta]
    return to_tensor(np.stack([composer.render(keys.index(wanted), None, scene, seed=1) for scene in scenes]))


# ------------------------------------------------------------------ the subject
def test_the_subject_is_told_from_other_cars_and_cars_from_other_things(judge, unseen, taught, scenes, composer):
    """On the very scenes of the unseen pictures: XP7 stands well above every other car, cars above other things."""
    cars = {car: similarity(judge, drawn(composer, car, scenes), unseen) for car in CARS}
    things = {thing: similarity(judge, drawn(composer, thing, scenes), unseen) for thing in THINGS}
    own = similarity(judge, taught, unseen)
    assert own > max(cars.values()) + 0.1, cars
    seen_whole = [value for (concept, _), value in cars.items() if not concept.startswith("oncoming")]  # not from ahead
    assert min(seen_whole) > max(things.values()) + 0.1, (cars, things)
    assert max(things.values()) < 0.15


def test_the_scene_counts_much_less_than_the_subject(judge, unseen, scenes, composer):
    """XP7 elsewhere is nearer to XP7 than another car in the same place."""
    features = torch.nn.functional.normalize(extract_features(judge, unseen), dim=1)
    cosine, scene = features @ features.T, np.array(scenes)
    elsewhere = cosine[torch.tensor(scene[:, None] != scene)]
    same_place = [
        float(
            (torch.nn.functional.normalize(extract_features(judge, drawn(composer, car, scenes)), dim=1) * features)
            .sum(1)
            .mean()
        )
        for car in CARS
    ]
    assert elsewhere.mean() > max(same_place) + 0.05


def test_similarity_is_the_mean_over_all_pairs(judge, unseen, taught):
    a, b = extract_features(judge, unseen), extract_features(judge, taught)
    by_hand = [float(torch.nn.functional.cosine_similarity(x, y, dim=0)) for x in a for y in b]
    assert similarity(judge, unseen, taught) == pytest.approx(np.mean(by_hand), abs=1e-5)
    assert similarity(judge, unseen[:1], unseen[:1]) == pytest.approx(1, abs=1e-5)
    assert similarity(judge, unseen, taught) == pytest.approx(similarity(judge, taught, unseen), abs=1e-6)


# ------------------------------------------------------------------ the prompt
def test_prompt_fidelity_counts_what_is_asked_and_nothing_else(judge, unseen, scenes):
    assert prompt_fidelity(judge, unseen, {"background": scenes}) == 1.0
    assert prompt_fidelity(judge, unseen, {"background": scenes[::-1]}) < 0.6
    half = [scenes[0], *(None for _ in scenes[1:])]
    assert prompt_fidelity(judge, unseen, {"background": half}) == 1.0


def test_prompt_fidelity_is_the_mean_of_the_shares(judge, scenes, composer):
    x = drawn(composer, ("taxi", "noto"), scenes)
    asked = {"background": scenes, "concept": ["taxi"] * len(x)}
    assert prompt_fidelity(judge, x, asked) == 1.0
    assert prompt_fidelity(judge, x, {**asked, "concept": ["panda"] * len(x)}) == 0.5


# ------------------------------------------------------------------ the variety
def test_diversity_is_zero_for_copies_and_counts_pairs_of_one_prompt_only(net, unseen):
    copies = unseen[:1].repeat(4, 1, 1, 1)
    assert prompt_diversity(net, copies, ["car"] * 4) == pytest.approx(0, abs=1e-6)
    x = unseen[:3]
    with torch.no_grad():
        ab = float(perceptual_distance(net, x[:1], x[1:2]))
        every = [float(perceptual_distance(net, x[i : i + 1], x[j : j + 1])) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert prompt_diversity(net, x, ["a", "a", "b"]) == pytest.approx(ab, rel=1e-4)
    assert prompt_diversity(net, x, ["a"] * 3) == pytest.approx(np.mean(every), rel=1e-4)


def test_many_kinds_of_car_are_more_diverse_than_one(net, composer):
    many = torch.cat([drawn(composer, car, ["snow"]) for car in CARS])
    noise = torch.randn(many.shape, generator=torch.Generator().manual_seed(0))
    one = drawn(composer, CARS[0], ["snow"] * len(CARS)) + 0.02 * noise
    assert prompt_diversity(net, many, ["car"] * len(many)) > 2 * prompt_diversity(net, one, ["car"] * len(many))


def test_one_row_of_the_table(judge, net, taught, unseen, scenes, composer):
    kind, wanted = drawn(composer, CARS[0], scenes), {"background": ["white"] * 12}
    row = fidelity(judge, net, taught, ["XP7 car"] * 12, wanted, kind, unseen)
    assert list(row) == ["subject", "prompt", "PRES", "DIV"] and all(isinstance(value, float) for value in row.values())
    assert row["subject"] == similarity(judge, taught, unseen) and row["PRES"] == similarity(judge, kind, unseen)
    assert row["prompt"] == prompt_fidelity(judge, taught, wanted)
    assert row["DIV"] == prompt_diversity(net, taught, ["XP7 car"] * 12)


def test_wrong_input_is_told(judge, net, unseen):
    for broken in (unseen[0], unseen[:0], unseen[:, :2]):
        with pytest.raises(ValueError, match="judges pictures"):
            similarity(judge, unseen, broken)
    with pytest.raises(ValueError, match="nothing is asked"):
        prompt_fidelity(judge, unseen, {"background": [None] * 8})
    with pytest.raises(ValueError, match="8 pictures, but 2 targets"):
        prompt_fidelity(judge, unseen, {"background": ["snow"] * 2})
    with pytest.raises(ValueError, match="no background 'moon'"):
        prompt_fidelity(judge, unseen, {"background": ["moon"] * 8})
    with pytest.raises(ValueError, match="8 pictures, but 1 prompts"):
        prompt_diversity(net, unseen, ["car"])
    with pytest.raises(ValueError, match="drawn at least twice"):
        prompt_diversity(net, unseen, list("abcdefgh"))
