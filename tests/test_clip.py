"""CLIP: our towers and loss against transformers', gradients in chunks, and what the recipe feeds them."""

import math

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from course_utils import checkpoints
from course_utils.data import load_splits
from course_utils.errors import InputError
from course_utils.evaluation.report import from_card
from course_utils.evaluation.report_clip import (
    clip_score,
    concept_names,
    evaluate_clip,
    full_captions,
    held_out_examples,
    recall,
)
from course_utils.image_encoder.clip_vision import CLIPVisionModel, ResNetVisionModel
from course_utils.recipes import clip as recipe
from course_utils.systems.clip import CLIP, embed_images, embed_texts, make_clip, make_vit_clip, tokenize
from course_utils.text_encoder.clip import CLIPTextModel
from course_utils.text_encoder.contrastive import contrastive_loss, embed_in_chunks

VOCAB, LENGTH, SIZE, DIM = 300, 16, 32, 48


def peer(vocab=VOCAB, length=LENGTH, size=SIZE, patch=8, dim=DIM, embed_dim=24, layers=2, heads=4):
    """transformers' CLIP with random weights."""
    common = {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_size": dim,
        "intermediate_size": 4 * dim,
    }
    marks = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = CLIPConfig(
        text_config={**common, **marks, "vocab_size": vocab, "max_position_embeddings": length},
        vision_config={**common, "image_size": size, "patch_size": patch},
        projection_dim=embed_dim,
    )
    return CLIPModel(config).eval()


def ours(size=SIZE, patch=8, dim=DIM, embed_dim=24, layers=2, heads=4):
    text = CLIPTextModel(VOCAB, LENGTH, dim, layers, heads)
    return CLIP(text, CLIPVisionModel(size, patch, dim, layers, heads), dim, dim, embed_dim).eval()


@pytest.fixture
def pair():
    torch.manual_seed(0)
    theirs, mine = peer(), ours()
    for parameter in theirs.parameters():  # transformers starts some at zero, which would hide them
        torch.nn.init.normal_(parameter, std=0.05)
    theirs.logit_scale.data.fill_(math.log(1 / 0.07))
    mine.load_state_dict(theirs.state_dict())
    return mine, theirs


def inputs(n=6, seed=0):
    """Pictures, and token numbers of texts of different lengths, ended and filled up."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, SIZE, SIZE, generator=generator)
    ids = torch.randint(3, VOCAB, (n, LENGTH), generator=generator)
    ids[:, 0] = 0
    for i in range(n):
        ids[i, 4 + i], ids[i, 5 + i :] = 1, 2
    return x, ids


# ------------------------------------------------------------------ peers
def test_state_dicts_load_strictly_both_ways(pair):
    mine, theirs = pair
    assert list(mine.state_dict()) and mine.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(mine.state_dict(), strict=True)


def test_vectors_loss_and_gradients_are_transformers(pair):
    mine, theirs = pair
    x, ids = inputs()
    answer = theirs(input_ids=ids, pixel_values=x, return_loss=True)
    image_embed, text_embed = mine(x, ids)
    loss = contrastive_loss(image_embed, text_embed, mine.scale)
    assert torch.allclose(image_embed, answer.image_embeds, atol=1e-5)
    assert torch.allclose(text_embed, answer.text_embeds, atol=1e-5)
    assert torch.allclose(mine.scale * image_embed @ text_embed.T, answer.logits_per_image, atol=1e-4)
    assert float(loss.detach()) == pytest.approx(float(answer.loss.detach()), abs=1e-5)
    loss.backward()
    answer.loss.backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in mine.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name].grad, atol=1e-5), name
        assert parameter.grad.abs().max() > 0, name


def test_the_shipped_shape_opens_in_transformers():
    mine = make_vit_clip()
    theirs = peer(vocab=6144, length=32, size=64, dim=192, embed_dim=192, layers=1, heads=6)
    known = theirs.state_dict()
    assert all(mine.state_dict()[key].shape == value.shape for key, value in known.items())


def test_the_picture_tower_looks_everywhere_and_the_text_tower_only_back():
    mine = ours()
    x, ids = inputs(1)
    other = x.clone()
    other[..., -8:, -8:] += 1  # the last patch
    assert not torch.allclose(mine.vision_model(x)[:, 1], mine.vision_model(other)[:, 1])
    later = ids.clone()
    later[:, 3] = (later[:, 3] + 1) % VOCAB
    assert torch.allclose(mine.text_model(ids)[:, :3], mine.text_model(later)[:, :3], atol=1e-6)


# ------------------------------------------------------------------ the loss
def test_vectors_that_say_nothing_cost_ln_n_and_true_ones_nothing():
    same = torch.nn.functional.normalize(torch.ones(8, 4), dim=1)
    assert float(contrastive_loss(same, same, 14.0)) == pytest.approx(math.log(8), abs=1e-5)
    apart = torch.eye(8)
    assert float(contrastive_loss(apart, apart, 100.0)) < 1e-5
    assert float(contrastive_loss(apart, apart.roll(1, 0), 100.0)) == pytest.approx(100, abs=1e-3)


def test_the_loss_is_symmetric_and_leaves_out_what_is_also_true():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(5, 4, generator=generator), dim=1) for _ in range(2))
    assert torch.allclose(contrastive_loss(a, b, 10.0), contrastive_loss(b, a, 10.0))
    also = torch.eye(5, dtype=torch.bool)
    assert torch.equal(contrastive_loss(a, b, 10.0, also), contrastive_loss(a, b, 10.0))
    also[0, 1] = True
    logits = 10 * a @ b.T
    rows = torch.logsumexp(torch.cat([logits[0, :1], logits[0, 2:]]), 0) - logits[0, 0]
    rows = rows + sum(torch.logsumexp(logits[i], 0) - logits[i, i] for i in range(1, 5))
    columns = torch.logsumexp(logits[1:, 1], 0) - logits[1, 1]
    columns = columns + sum(torch.logsumexp(logits[:, i], 0) - logits[i, i] for i in (0, 2, 3, 4))
    assert float(contrastive_loss(a, b, 10.0, also)) == pytest.approx(float(rows + columns) / 10, abs=1e-5)


def test_the_scale_stops_at_100():
    mine = ours()
    mine.logit_scale.data.fill_(9.0)
    assert float(mine.scale.detach()) == 100.0


@pytest.mark.parametrize("chunk", [1, 2, 5, 6])
def test_gradients_in_chunks_are_the_plain_ones(pair, chunk):
    mine, _ = pair
    x, ids = inputs()
    contrastive_loss(*mine(x, ids), mine.scale).backward()
    plain = {name: parameter.grad.clone() for name, parameter in mine.named_parameters()}
    mine.zero_grad()
    image_embed = embed_in_chunks(mine.embed_image, x, chunk)
    contrastive_loss(image_embed, embed_in_chunks(mine.embed_text, ids, chunk), mine.scale).backward()
    for name, parameter in mine.named_parameters():
        assert torch.allclose(parameter.grad, plain[name], atol=1e-6), name


# ------------------------------------------------------------------ the recipe
def test_a_batch_repeats_and_a_step_reaches_every_weight():
    first, again = (recipe.batch(torch.Generator().manual_seed(3), 8) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert first["x"].shape == (8, 3, 64, 64) and first["also"].diagonal().all()
    network = recipe.model()
    loss = recipe.loss(network, first, None)
    assert abs(float(loss.detach()) - math.log(8)) < 1.5
    loss.backward()
    unused = {"text_model.embeddings.token_embedding.weight", "text_model.embeddings.position_embedding.weight"}
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in network.named_parameters() if n not in unused)


def test_a_caption_is_true_of_every_picture_that_shows_all_it_states():
    shown = {
        "concept": ["dog", "dog", "cat"],
        "style": ["noto", "blob", "noto"],
        "color": ["red", None, "red"],
        "background": ["snow", "snow", "sea"],
    }
    stated = {
        "concept": ["dog", "dog", "cat"],
        "style": [None, "blob", None],
        "color": [None, None, "red"],
        "background": ["snow", None, None],
    }
    assert recipe.true_of(stated, shown).tolist() == [[True, False, False], [True, True, False], [False, False, True]]


def test_training_never_shows_a_test_pair_nor_a_held_out_colour():
    splits = load_splits()
    seen = {(meta["concept"], meta["style"]) for meta in recipe.composer().emoji.meta}
    assert not seen & {tuple(pair) for pair in splits["test_pairs"]} and "3d" not in {style for _, style in seen}
    shown = recipe.composer().compose(500, 5).attributes
    assert not set(zip(shown["color"], shown["concept"])) & {tuple(pair) for pair in splits["held_out_colors"]}


def test_the_residual_tower_takes_what_the_transformer_takes():
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert ResNetVisionModel().pooled(x).shape == (2, 384)
    assert make_clip().embed_image(x).norm(dim=1).allclose(torch.ones(2))


# ------------------------------------------------------------------ the measure
def test_recall_by_hand():
    keys = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [0, 1], [1, 1]]), dim=1)
    query = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [0.1, 1], [1, 0.9], [1, 0]]), dim=1)
    right = torch.tensor([0, 1, 2, 2])
    assert recall(query, keys, right) == 0.75 and recall(query, keys, right, 2) == 1.0
    with pytest.raises(InputError, match="from 1 to 3"):
        recall(query, keys, right, 4)


def test_names_and_captions_of_the_judge():
    names = concept_names()
    assert len(names["en"]) == len(names["zh"]) == 1015 and list(names["en"]) == sorted(names["en"])
    pictures, composer = held_out_examples(20)
    captions = full_captions(pictures, composer, "en")
    assert len(captions) == 20 and all(" style" in text for text in captions)
    assert tokenize(captions)[0].shape[0] == 20


def test_the_clip_score_by_hand():
    network = make_clip().eval()
    x, prompts = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)), ["cat", "a red car", "狗"]
    cosines = (embed_images(network, x) * embed_texts(network, prompts)).sum(dim=1)
    score = clip_score(network, x, prompts)
    assert (
        score == pytest.approx(2.5 * cosines.clamp(min=0).mean().item(), abs=1e-6) and score.low <= score <= score.high
    )
    network.text_projection.weight.data.neg_()
    assert clip_score(network, x, prompts) == pytest.approx(2.5 * (-cosines).clamp(min=0).mean().item(), abs=1e-6)
    with pytest.raises(InputError, match="one prompt a picture"):
        clip_score(network, x, prompts[:2])


def test_pairs_are_drawn_frame_by_frame():
    from course_utils.figures.pairs import plot_pairs

    frame = tuple(
        torch.nn.functional.normalize(torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0)), dim=2)
    )
    figure = plot_pairs({"pull": [frame, frame], "push": [frame, frame]}, ["start", "end"], "pairs")
    assert len(figure.axes) == 4 and [ax.get_title(loc="center") for ax in figure.axes[:2]] == ["start", "end"]
    assert all(len(ax.lines) == 1 + 5 for ax in figure.axes)  # the circle, and a line a pair


# ------------------------------------------------------------------ the shipped towers
def test_the_card_tells_what_evaluation_finds():
    """Measured again on the first 300 pictures; and a picture knows its own caption far better than chance."""
    told = checkpoints.card("clip")["metrics"]
    for row, found in evaluate_clip(n=300).items():
        known = from_card(told[row])
        for key in ("concept", "concept_top5", "color"):
            assert found[key] == pytest.approx(known[key], abs=0.09), (row, key)
        assert found["R@1"] > 20 / 300 and found["R@5"] > found["R@1"], row
