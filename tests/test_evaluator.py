"""The evaluator answers what it should, at every size, and as well as its card says."""

import math

import pytest
import torch

from course_utils import checkpoints
from course_utils.data import FIRST_STYLES, STYLES, load_emoji, load_splits, to_tensor
from course_utils.datasets.compose import Composer
from course_utils.evaluation.evaluator import Evaluator, class_names, class_numbers, load_evaluator
from course_utils.evaluation.metrics import (
    ATTRIBUTES,
    alignment,
    extract_features,
    frechet_distance,
    held_out_accuracy,
    kernel_distance,
    predict,
    real_floor,
    real_halves,
)
from course_utils.evaluation.prompts import Prompt
from course_utils.evaluation.report import evaluate_evaluator, from_card
from course_utils.recipes import evaluator as recipe


@pytest.fixture(scope="module")
def evaluator():
    return load_evaluator()


@pytest.fixture(scope="module")
def real():
    """200 training pictures, composed at 64 pixels a side, with what they show."""
    pictures = Composer(load_emoji(64, styles=STYLES)).compose(200, seed=77)
    return to_tensor(pictures.images), pictures.attributes


# ------------------------------------------------------------------ the network and its classes
@pytest.mark.parametrize("side", [16, 32, 64, 256])
def test_it_takes_pictures_of_any_size(side):
    with torch.no_grad():
        answers = Evaluator().eval()(torch.rand(2, 3, side, side) * 2 - 1)
    assert [tuple(logits.shape) for logits in answers] == [(2, 1015), (2, 8), (2, 11), (2, 12), (2, 384)]


def test_classes_are_all_the_words_of_the_data():
    names = class_names()
    assert list(names) == list(ATTRIBUTES) and [len(words) for words in names.values()] == [1015, 8, 11, 12]
    assert names["concept"] == tuple(sorted(set(load_emoji(64, styles=STYLES, split="all").column("concept"))))
    assert class_numbers("color", ["red", None, "grey"]).tolist() == [0, -100, 10]
    with pytest.raises(ValueError, match="no style 'oil painting'"):
        class_numbers("style", ["noto", "oil painting"])


def test_training_never_shows_a_test_pair_or_a_held_out_colour():
    """The composer of the recipe holds training emoji only, of all eight styles, so held-out figures are honest."""
    splits = load_splits()
    seen = {(m["concept"], m["style"]) for m in recipe.composer().emoji.meta}
    assert not seen & {tuple(pair) for pair in splits["test_pairs"]} and {style for _, style in seen} == set(STYLES)
    shown = recipe.composer().compose(1000, 5).attributes
    assert not set(zip(shown["color"], shown["concept"])) & {tuple(pair) for pair in splits["held_out_colors"]}


def test_a_batch_repeats_and_a_loss_without_any_stated_colour_is_a_number():
    def draw(seed):
        return recipe.batch(torch.Generator().manual_seed(seed), 12)

    first, again, other = draw(0), draw(0), draw(1)
    assert all(torch.equal(first[k], again[k]) for k in first) and not torch.equal(first["x"], other["x"])
    assert first["x"].shape == (12, 3, 64, 64) and first["x"].abs().max() <= 1
    colorless = first | dict.fromkeys(("color", "color_patch"), torch.full((12,), -100))
    assert recipe.loss(recipe.model(), colorless, None).isfinite()


def test_bending_leaves_half_sharp_and_keeps_the_range():
    x = to_tensor(load_emoji(64, FIRST_STYLES).on_white()[:200])
    bent = recipe.random_affine(x, torch.Generator().manual_seed(0))
    same = (bent == x).flatten(1).all(dim=1).float().mean()
    assert 0.35 < same < 0.65 and bent.abs().max() <= 1 + 1e-6
    assert (bent - x).abs().mean() < 0.2  # turned by some degrees, not elsewhere


def test_a_patch_is_paid_for_by_its_area():
    """Where the next picture's patch lies, its pixels and its labels count, as much as the patch is large."""
    generator, n = torch.Generator().manual_seed(3), 400
    x = torch.arange(n).float().view(n, 1, 1, 1).expand(n, 3, 64, 64)  # each picture is its own number
    labels = {a: torch.arange(n) for a in ATTRIBUTES}
    mixed = recipe.random_patch({"x": x} | labels, generator)
    other = (mixed["x"] != x).float().mean(dim=(1, 2, 3))
    assert torch.allclose(other, mixed["share"]) and 0.4 < (other > 0).float().mean() < 0.6
    assert all(torch.equal(mixed[f"{a}_patch"], labels[a].roll(1)) for a in ATTRIBUTES)
    patched = 1 + (other[1:] > 0).nonzero().flatten()
    assert torch.equal(mixed["x"][patched].amin(dim=(1, 2, 3)), (patched - 1).float())


def test_a_patch_of_an_equal_picture_changes_no_loss():
    generator = torch.Generator().manual_seed(0)
    labels = {a: torch.full((4,), 2) for a in ATTRIBUTES}
    x = torch.rand(1, 3, 64, 64, generator=generator).expand(4, 3, 64, 64) * 2 - 1
    mixed = recipe.random_patch({"x": x} | labels, generator)
    plain = mixed | {"share": torch.zeros(4)}
    network = recipe.model().eval()
    assert mixed["share"].max() > 0.1
    assert torch.allclose(recipe.loss(network, mixed, None), recipe.loss(network, plain, None), atol=1e-5)


# ------------------------------------------------------------------ alignment
def test_alignment_with_right_and_wrong_wishes(evaluator, real):
    x, shown = real
    right = alignment(evaluator, x, shown)
    assert right["concept"] > 0.6 and right["style"] > 0.65 and right["color"] > 0.85 and right["background"] > 0.9
    assert right["concept"] <= right["concept_top5"]
    names = class_names()
    other = {a: names[a][1:] + names[a][:1] for a in ATTRIBUTES}  # the next word instead of the right one
    wrong = {a: [w and dict(zip(names[a], other[a]))[w] for w in shown[a]] for a in ATTRIBUTES}
    scores = alignment(evaluator, x, wrong)
    assert all(scores[a] < 0.35 * right[a] for a in ATTRIBUTES)


def test_alignment_counts_only_what_was_asked(evaluator, real):
    x, shown = real
    none = alignment(evaluator, x, {"concept": shown["concept"]})
    assert math.isnan(none["color"]) and math.isnan(none["style"]) and none["concept"] > 0.6
    color = predict(evaluator, x).color.argmax(dim=-1).tolist()
    says = [class_names()["color"][i] for i in color]
    half = [word if i % 2 else None for i, word in enumerate(says)]  # asked of half, and all of those are right
    assert alignment(evaluator, x, {"color": half})["color"] == 1.0
    prompts = [Prompt("", *row) for row in zip(*(shown[a] for a in ATTRIBUTES))]
    assert alignment(evaluator, x, prompts) == alignment(evaluator, x, shown)


def test_alignment_refuses_what_does_not_fit(evaluator, real):
    x, shown = real
    with pytest.raises(ValueError, match="200 pictures, but 3 targets"):
        alignment(evaluator, x, {"concept": shown["concept"][:3]})
    for bad in (x[0], x[:0], x[:, :1]):
        with pytest.raises(ValueError, match=r"\(N, 3, H, W\)"):
            extract_features(evaluator, bad)


def test_pictures_out_of_range_are_clipped_and_batches_do_not_matter(evaluator, real):
    x = real[0][:20]
    features = extract_features(evaluator, x)
    assert features.shape == (20, 384) and not features.requires_grad
    assert torch.allclose(features, extract_features(evaluator, x, batch_size=7), atol=1e-4)
    white = torch.where(x == 1, 1.6, x)
    assert (white > 1).any() and torch.allclose(features, extract_features(evaluator, white), atol=1e-4)


# ------------------------------------------------------------------ how well it judges
@pytest.mark.parametrize("size", [64, 32])
def test_the_card_tells_the_truth(evaluator, size):
    """The figures of the card, measured again on other compositions."""
    told = checkpoints.card("evaluator")["metrics"]
    for name, split in (("held out", "test"), ("trained on", "train")):
        now = held_out_accuracy(evaluator, size, 1600, seed=9, split=split)
        assert now == pytest.approx(from_card(told[f"{name}, {size} px"]), abs=0.05), name


def test_added_metrics_leave_the_rest_of_the_card(evaluator, tmp_path):
    checkpoints.save("evaluator", evaluator, {"steps": 7, "metrics": {"training_loss": 1.5}}, folder=tmp_path)
    before = checkpoints.card("evaluator", tmp_path)
    rows = evaluate_evaluator(n=8, folder=tmp_path)
    assert set(rows) == {f"{which}, {size} px" for which in ("held out", "trained on") for size in (64, 32)}
    checkpoints.add_metrics("evaluator", rows, tmp_path)
    after = checkpoints.card("evaluator", tmp_path)
    assert after.pop("metrics") == {"training_loss": 1.5} | rows
    before.pop("metrics")
    assert after == before and checkpoints.verify(tmp_path) == [("evaluator.safetensors", "ok")]


def test_real_pictures_are_nearer_to_real_ones_than_noise_and_blur(evaluator):
    """Noise is far away; blur moves the features less, as they were trained on shrunk pictures too."""
    floor = real_floor(evaluator, 400, size=32)
    x, y = real_halves(400, size=32, seed=0)
    a = extract_features(evaluator, y)  # of other emoji: pictures and their own blurred copies would be too alike
    blurred = torch.nn.functional.avg_pool2d(x, 5, stride=1, padding=2, count_include_pad=False)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for broken, times in ((blurred, 1.2), (noise, 5)):
        b = extract_features(evaluator, broken)
        assert frechet_distance(a, b) > times * floor["frechet"]
        assert kernel_distance(a, b) > 3 * times * abs(floor["kernel"])
