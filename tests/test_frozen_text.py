"""The frozen text encoder: transformers' BERT on random tiny weights, 4 bits a weight, and what ships."""

import json

import numpy as np
import pytest
import torch

from course_utils.data import load_names, text_encoder_files
from course_utils.datasets.compose import LANGUAGES, caption
from course_utils.errors import InputError
from course_utils.systems.imagen import CONTEXT_DIM, open_text
from course_utils.text_encoder.frozen import BertEncoder, dequantise, from_transformers, load_quantised, tokenizer_of

TOLERANCE = 1e-5


def tiny_bert():
    """transformers' BERT with random weights, and ours, which has loaded them strictly."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=12,
        pad_token_id=1,
    )
    theirs = BertModel(config, add_pooling_layer=False).eval()
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight, std=0.3)  # no bias or norm may hide behind a zero or a one
    ours = BertEncoder(50, 12, 24, 3, 4, 40).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def some_texts():
    """Token numbers (4, 9) and their mask: texts of different lengths."""
    ids = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(1))
    return ids, torch.arange(9)[None] < torch.tensor([[9], [5], [1], [7]])


# ------------------------------------------------------------------ BERT
def test_the_encoder_is_transformers_bert():
    ours, theirs = tiny_bert()
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ids, mask = some_texts()
    peer = theirs(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True)
    assert (ours(ids, mask) - peer.last_hidden_state)[mask].abs().max() < TOLERANCE
    for layer, states in enumerate(peer.hidden_states):
        assert (ours(ids, mask, num_layers=layer) - states)[mask].abs().max() < TOLERANCE


def test_what_fills_a_text_up_changes_nothing_and_layer_0_knows_no_neighbours():
    ours, _ = tiny_bert()
    ids, mask = some_texts()
    others = torch.where(mask, ids, 7)
    assert torch.equal(ours(ids, mask)[mask], ours(others, mask)[mask])
    changed = ids.clone()
    changed[:, 0] = (ids[:, 0] + 1) % 50
    still = [(ours(ids, mask, n) - ours(changed, mask, n))[0, 1:].abs().max() for n in (0, 3)]
    assert still[0] == 0 and still[1] > 1e-3


# ------------------------------------------------------------------ 4 bits
def test_four_bits_become_the_weights_they_stand_for():
    rng = np.random.default_rng(0)
    numbers, scales = rng.integers(0, 16, (3, 2, 32)), rng.random((3, 2)).astype(np.float16)
    nibbles = torch.from_numpy((numbers[..., :16] | numbers[..., 16:] << 4).astype(np.uint8))
    weights = ((numbers - 8) * scales[..., None].astype(np.float32)).reshape(3, 64)
    found = dequantise(nibbles, torch.from_numpy(scales))
    assert found.dtype == torch.float32 and np.array_equal(found.numpy(), weights)


# ------------------------------------------------------------------ T5 and others, by the same way
def words_tokenizer(folder):
    """A tokenizer of a few words, in a folder, as the hub has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", "pink", "cat", "red", "car"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **marks).save_pretrained(folder)


def save_t5(folder):
    from transformers import T5Config, T5EncoderModel

    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 2, "num_layers": 2}
    model = T5EncoderModel(T5Config(vocab_size=10, pad_token_id=0, eos_token_id=1, **sizes))
    model.save_pretrained(folder)
    return model.eval()


def save_bert(folder):
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = BertModel(BertConfig(vocab_size=10, pad_token_id=0, **sizes))
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("save", [save_t5, save_bert])
def test_another_encoder_comes_the_same_way(save, tmp_path):
    theirs = save(tmp_path)
    words_tokenizer(tmp_path)
    text = from_transformers(str(tmp_path), max_tokens=6, local_files_only=True)
    context = text.encode(["pink cat", "red", ""])
    assert context.shape == (3, 6, 16) and text.dim == 16
    peer = theirs(torch.tensor([[3, 4, 1]])).last_hidden_state[0]
    assert (context[0, :3] - peer).abs().max() < TOLERANCE
    assert not context[0, 3:].any() and not context[1, 2:].any() and not context[2].any()


def test_an_encoder_that_cannot_be_had_gets_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    for name in (str(tmp_path), str(tmp_path / "nothing")):
        with pytest.raises(InputError, match="cannot be had"):
            from_transformers(name, local_files_only=True)


# ------------------------------------------------------------------ what ships with the course
@pytest.fixture(scope="module")
def text():
    return open_text()


def test_the_shipped_files_are_small_and_whole():
    weights, tokenizer = text_encoder_files()
    assert weights.stat().st_size + tokenizer.stat().st_size <= 16e6
    model = load_quantised(weights)
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    assert all(p.isfinite().all() for p in model.parameters())
    assert model.embeddings.word_embeddings.weight.shape == (12_000, CONTEXT_DIM)


def test_hardly_a_caption_holds_an_unknown_piece_and_all_fit():
    """Eight rare Chinese characters, as in 水獭, are unknown to the whole model already."""
    weights, tokenizer = text_encoder_files()
    metas = load_names()
    texts = [caption({**m, "style": "noto"}, None, "snow", language) for m in metas for language in LANGUAGES]
    ids, mask = tokenizer_of(tokenizer, 64)(texts)
    assert (ids == 3).any(dim=1).float().mean() < 0.01 and mask.sum(dim=1).max() <= 32


def test_context_is_zero_where_nothing_is_said(text):
    context = text.encode(["pink butterfly", "粉色的蝴蝶，夜空", "", "  "])
    assert context.shape == (4, 32, CONTEXT_DIM) and context.isfinite().all()
    said = context.abs().sum(dim=-1) > 0
    assert said.sum(dim=1).tolist()[2:] == [0, 0] and said[:2].sum(dim=1).min() >= 5
    alone = text.encode("pink butterfly")
    assert (alone[0] - context[0]).abs().max() < 1e-4, "its neighbours in the batch are longer"
    with pytest.raises(InputError):
        text.encode([1])


def test_both_languages_meet(text):
    """Means of the states of English and Chinese names: the nearest is often the translation."""
    rows = load_names()[::25]
    means = [
        torch.nn.functional.normalize(text.encode([row[key] for row in rows]).sum(1), dim=-1)
        for key in ("name_en", "name_zh")
    ]
    nearest = (means[0] @ means[1].T).argmax(dim=1)
    assert (nearest == torch.arange(len(rows))).float().mean() > 0.5
