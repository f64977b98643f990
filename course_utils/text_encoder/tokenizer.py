"""From a prompt to numbers: byte-level byte-pair encoding, one vocabulary for English and Chinese.

A rare word, an emoji or a script the training never saw falls apart into bytes: no text is unreadable.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from course_utils.errors import InputError, prompt_list

START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
PAD_ID = 2  # the three marks are tokens 0, 1 and 2
VOCAB_SIZE = 6144  # all words of our captions, and pieces for every other
MAX_TOKENS = 32  # our longest caption has fewer; CLIP reads 77


def train_tokenizer(captions: Iterable[str], vocab_size: int = VOCAB_SIZE, max_tokens: int = MAX_TOKENS) -> Tokenizer:
    """Learn a vocabulary from captions: join the most frequent pair of neighbours until it is full.

    vocab_size: at least 259, the 256 bytes and three marks, else InputError. The tokenizer lower-cases, makes
    full-width signs plain (NFKC), cuts at max_tokens and fills a batch with padding. Sennrich et al. 2016, algorithm 1,
    on bytes as in GPT-2. Built in notebook 04.
    """
    if vocab_size < 259:
        raise InputError(f"vocab_size must be at least 259 (256 bytes and three marks), not {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])  # "，" becomes ","
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.BertPreTokenizer(),  # between words, and around commas
            pre_tokenizers.Split(Regex(r"\p{Han}*的|\p{Han}+"), "isolated"),  # Chinese writes no spaces: 粉色的|蝴蝶
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),  # "Ġ" marks where a word begins
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[START, END, PAD],
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(captions, trainer)
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=marks)
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(PAD), pad_token=PAD)
    return tokenizer


@lru_cache(maxsize=4)
def open_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer that `train_tokenizer(...).save(path)` wrote."""
    return Tokenizer.from_file(str(path))


def encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers (B, L) long and their mask (B, L) bool, False where a shorter text was filled up.

    L is the length of the longest text with its two marks, at most the tokenizer's own. InputError for what is no text.
    Built in notebook 04.
    """
    encodings = tokenizer.encode_batch(prompt_list(texts))
    ids = torch.tensor([e.ids for e in encodings], dtype=torch.long)
    mask = torch.tensor([e.attention_mask for e in encodings], dtype=torch.bool)
    return ids, mask


def cut_off(tokenizer: Tokenizer, text: str) -> str:
    """What of a text lies beyond the most tokens the tokenizer gives, so that no model reads it; "" if nothing does."""
    encoding = tokenizer.encode(text)
    return text[max(end for _, end in encoding.offsets) :].strip() if encoding.overflowing else ""
