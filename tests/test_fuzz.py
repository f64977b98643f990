"""Readers meet what nobody thought of: any text, any bytes, any options end in a result or in one sentence.

The gate tries few examples of each, always the same; `HYPOTHESIS_PROFILE=thorough` tries 2,000 new ones. What was once
found to fail is an @example, tried first.
"""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save, save_file

from course_utils import checkpoints, cli, data
from course_utils.app import generate, inputs
from course_utils.app import train as training
from course_utils.app.commands import card_lines
from course_utils.datasets.captions import BACKGROUNDS, LANGUAGES, WORDS_ZH, caption
from course_utils.datasets.photos import load_photos
from course_utils.errors import CheckpointError, CourseError, DataError, InputError
from course_utils.finetune.lora import lora_factors
from course_utils.interop.lora_files import read_lora
from course_utils.text_encoder.tokenizer import END, MAX_TOKENS, START, encode, open_tokenizer

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("gate", max_examples=50, derandomize=True, **COMMON)
settings.register_profile("thorough", max_examples=2000, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))

ROOT = Path(__file__).resolve().parents[1]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@contextlib.contextmanager
def folder():
    """A new folder for every example."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def sentence(error: Exception) -> bool:
    """Is this one sentence, on one line?"""
    return bool(str(error)) and "\n" not in str(error)


# ------------------------------------------------------------------ captions -> tokens -> captions
@pytest.fixture(scope="module")
def tokenizer():
    return open_tokenizer(data.tokenizer_file())


def letters(text: str) -> str:
    """A text without its spaces, which the tokenizer puts where it likes."""
    return "".join(text.split())


@given(text=st.text(max_size=12))
@example(text="")
@example(text="\u200d\ufe0f\x00")
@example(text="ﬁ Ⅷ ㍿ ＡＢＣ")
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    ids, mask = encode(tokenizer, [text, "cat"])
    assert ids.shape == mask.shape and ids.shape[1] <= MAX_TOKENS and ids.min() >= 0
    assert ids.max() < tokenizer.get_vocab_size() and int(mask[0].sum()) >= 2
    if mask[0].sum() < MAX_TOKENS:  # nothing was cut
        back = tokenizer.decode(ids[0][mask[0]].tolist(), skip_special_tokens=True)
        assert letters(back) == letters(tokenizer.normalizer.normalize_str(text))


@pytest.fixture(scope="module")
def metas():
    """What is known of every picture of three styles."""
    tables = [data.read_table(data.DATA_DIR / "emoji_64.parquet", ("style", "=", s))[0] for s in data.FIRST_STYLES]
    return [row for table in tables for row in table.drop_columns(["image", "id", "size"]).to_pylist()]


@given(
    number=st.integers(0, 10**6),
    color=st.sampled_from([None, *WORDS_ZH]),
    background=st.sampled_from([None, *BACKGROUNDS]),
    language=st.sampled_from(LANGUAGES),
    seed=st.none() | st.integers(0, 2**32 - 1),
    natural=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_every_caption_comes_back_whole(tokenizer, metas, number, color, background, language, seed, natural):
    rng = None if seed is None else np.random.default_rng(seed)
    text = caption(metas[number % len(metas)], color, background, language, rng, natural=natural)
    tokens = tokenizer.encode(text)
    assert text == text.strip() and text and not tokens.overflowing
    assert (tokens.tokens[0], tokens.tokens[sum(tokens.attention_mask) - 1]) == (START, END)
    assert letters(tokenizer.decode(tokens.ids)) == letters(tokenizer.normalizer.normalize_str(text))


# ------------------------------------------------------------------ photos
def encoded(form: str) -> bytes:
    """A small photo in a format."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64 * 66 * 3, dtype=np.uint32).reshape(64, 66, 3).astype(np.uint8)).save(buffer, form)
    return buffer.getvalue()


PHOTOS = [encoded(form) for form in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")]


@st.composite
def damaged(draw, whole):
    """One of some contents, in which a few bytes were changed, or of which an end was cut off."""
    content = bytearray(draw(st.sampled_from(whole)))
    for place, byte in draw(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4)):
        content[place % len(content)] = byte
    end = draw(st.just(len(content)) | st.integers(0, len(content)))
    return bytes(content[:end])


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20).filter(
    lambda name: name not in (".", "..")
)


@given(files=st.dictionaries(NAMES, st.binary(max_size=40) | damaged(PHOTOS), max_size=3), size=st.integers(16, 40))
@example(files={"a.jpg": PHOTOS[0], "A.png": PHOTOS[1], "b\n.webp": PHOTOS[2]}, size=16)
def test_any_folder_of_photos_is_read_or_refused(files, size):
    with folder() as path:
        for name, content in files.items():
            (path / name).write_bytes(content)
        seen = {n for n in files if not n.startswith(".") and n.lower() not in ("thumbs.db", "desktop.ini")}
        try:
            found = load_photos(path, size)
        except InputError as error:
            assert sentence(error)
            return
    assert found.pictures.dtype == np.uint8 and found.pictures.shape == (len(found), size, size, 3)
    assert len(found) >= 1 and len(found) + len(found.skipped) == len(seen)
    assert "\n" not in found.report() and found.report().isprintable()


# ------------------------------------------------------------------ LoRA files
LAYERS = ("mid_block.attn.to_q", "conv_in", "up_blocks.0.to_out.0", "")
PARTS = ("lora_A.weight", "lora_B.weight", "lora.down.weight", "lora.up.weight", "lora_down.weight", "lora_up.weight")
KEYS = st.builds(
    lambda prefix, layer, part: f"{prefix}{layer}.{part}",
    st.sampled_from(["unet.", "", "base_model.model.", "lora_unet_", "text_encoder."]),
    st.sampled_from(LAYERS),
    st.sampled_from([*PARTS, "alpha", "lora_B.bias"]),
)
SHAPES = st.lists(st.integers(0, 3), max_size=4)
NUMBERS = st.sampled_from([1.0, 0.0, -2.5, 6e4, 3e38, float("nan"), float("-inf")])
KINDS = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool])


def tensor(shape, number, kind) -> torch.Tensor:
    """A tensor of one number; for whole-number types of 1."""
    return torch.full(shape, number if kind.is_floating_point else 1).to(kind)


def pair(rank: int, kohya: bool) -> dict:
    """The two matrices of a LoRA that is as it should be."""
    names = ("lora_unet_mid_block_attn_to_q.lora_{}.weight", ("down", "up"))
    names = names if kohya else ("base_model.model.mid_block.attn.to_q.lora_{}.weight", ("A", "B"))
    return {names[0].format(names[1][0]): torch.ones(rank, 3), names[0].format(names[1][1]): torch.ones(4, rank)}


def read(path: Path) -> None:
    """Read a LoRA that may be anything: a state of finite numbers comes back, or a sentence."""
    try:
        state, alpha = read_lora(path)
    except CheckpointError as error:
        assert sentence(error)
        return
    ranks = {len(A) for A, _ in lora_factors(state).values()}
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in state.values())
    assert 0 not in ranks and alpha == (ranks.pop() if len(ranks) == 1 else None)


@given(
    tensors=st.dictionaries(KEYS, st.builds(tensor, SHAPES, NUMBERS, KINDS), max_size=4),
    whole=st.sampled_from([{}, pair(1, True), pair(2, True), pair(0, True), pair(2, False)]),
    metadata=st.none() | JSON.map(json.dumps) | st.text(max_size=8),
)
@example(tensors={"lora_unet_conv_in.alpha": torch.ones(2)}, whole=pair(2, True), metadata=None)
@example(
    tensors={f"mid_block.attn.to_q.{part}": torch.ones(2, 2) for part in PARTS[:2]}, whole=pair(2, True), metadata=None
)
@example(tensors={}, whole=pair(0, True), metadata=None)
def test_any_tensors_are_a_lora_or_refused(tensors, whole, metadata):
    with folder() as path:
        words = {} if metadata is None else {"lora_adapter_metadata": metadata}
        save_file({**whole, **tensors}, path / "x.safetensors", words)
        read(path / "x.safetensors")


@given(
    config=st.fixed_dictionaries(
        {},
        optional={
            "lora_alpha": JSON,
            "alpha_pattern": JSON | st.dictionaries(st.sampled_from(["to_q", "(", "*", "[a"]), JSON, max_size=2),
            "use_rslora": JSON,
            "init_lora_weights": JSON | st.just("PiSSA"),
        },
    ).map(lambda config: json.dumps(config).encode())
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=20)
)
@example(config=b'{"lora_alpha": 2, "alpha_pattern": {"(": 1}}')
@example(config=b'{"lora_alpha": 2, "alpha_pattern": [1]}')
@example(config=b'{"lora_alpha": 1e999}')
@example(config=b"[" * 100_000)
def test_any_configuration_of_peft_is_read_or_refused(config):
    with folder() as path:
        save_file(pair(2, False), path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_bytes(config)
        read(path)


@given(content=st.binary(max_size=40) | damaged([save(pair(2, True)), save(pair(2, False))]))
def test_any_bytes_are_a_lora_or_refused(content):
    with folder() as path:
        (path / "x.safetensors").write_bytes(content)
        read(path / "x.safetensors")


# ------------------------------------------------------------------ cards
FIELDS = (*checkpoints.TEXTS, *checkpoints.NUMBERS, "parents", "metrics")


@given(
    content=JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(FIELDS), JSON).map(lambda card: json.dumps(card).encode())
    | damaged([(checkpoints.CHECKPOINT_DIR / "vae.json").read_bytes()])
    | st.binary(max_size=30)
)
@example(content=b"[]")
@example(content=b'{"steps": "many"}')
@example(content=b'{"minutes": 1' + b"0" * 400 + b"}")
@example(content=b'{"metrics": {"loss": null}}')
@example(content=b'{"metrics": {"shares": {}}}')
@example(content=b'{"parents": ["vae"]}')
@example(content=b'{"scaling_factor": NaN}')
@example(content=b"[" * 100_000)
def test_any_card_is_read_or_refused(content):
    with folder() as path:
        (path / "vae.json").write_bytes(content)
        save_file({"w": torch.ones(2)}, path / "vae.safetensors")
        for use in (checkpoints.card, checkpoints.check, lambda name, where: checkpoints.scaling_factor(where)):
            with contextlib.suppress(CheckpointError):
                use("vae", path)
        ((_, status),) = checkpoints.verify(path)
        assert status and "\n" not in status
        with contextlib.suppress(CheckpointError):
            card = checkpoints.card("vae", path)
            assert all(card_lines(card, 1.0)) and isinstance(checkpoints.parent_folder("vae", "perceptual", path), Path)


# ------------------------------------------------------------------ splits
@given(content=damaged([(data.DATA_DIR / "splits.json").read_bytes()]) | st.binary(max_size=20))
def test_altered_splits_are_never_used(content):
    whole = (data.DATA_DIR / "splits.json").read_bytes()
    with folder() as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "DATA_DIR", path)
        shutil.copy(ROOT / "data" / "SHA256SUMS", path)
        (path / "splits.json").write_bytes(content)
        if content == whole:
            assert data.load_splits()["test_pairs"]
            return
        with pytest.raises(DataError) as error:
            data.load_splits()
        assert sentence(error.value)


@given(content=st.binary(max_size=60) | damaged([(data.DATA_DIR / "SHA256SUMS").read_bytes()]))
@example(content=b"\xff\xfe")
@example(content=b"one two three")
def test_an_altered_list_of_sums_hides_no_damage(content):
    with folder() as path:
        (path / "SHA256SUMS").write_bytes(content)
        (path / "splits.json").write_bytes(b"{}")
        try:
            found = dict(data.verify(path))
        except DataError as error:
            assert sentence(error)
            return
        assert all(status != "ok" for status in found.values())


NO_STYLE = st.text(max_size=5)


@given(
    style=st.sampled_from(["noto", "noto", "twemoji"]) | NO_STYLE,
    groups=st.none() | st.lists(st.sampled_from(data.GROUPS) | st.sampled_from(["", "people"]), max_size=3),
    size=st.sampled_from([16, 16, 16, 0, 17, -1]),
)
def test_training_and_test_share_nothing_and_lose_nothing(style, groups, size):
    def names(split):
        found = data.load_emoji(size, (style,), groups and tuple(groups), split)
        return {(entry["concept"], entry["style"]) for entry in found.meta}

    try:
        train, test, every = map(names, data.SPLITS)
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert not train & test and train | test == every
    assert test == every & {tuple(pair) for pair in data.load_splits()["test_pairs"]}


# ------------------------------------------------------------------ the command line
WORDS = st.sampled_from(
    [
        "draw",
        "train",
        "evaluate",
        "export",
        "list",
        "doctor",
        "noise-predictor",
        "text-pixel",
        "vae",
        "xp7",
        "cat",
        "猫",
    ]
)
FLAGS = st.sampled_from(
    [
        *("--steps", "--seed", "--count", "--guidance", "--system", "--negative", "--lora", "--out", "--from"),
        *("--device", "--minutes", "--all", "--resume", "--restart", "--continue", "--run-dir", "--replace"),
        *("--prompts", "--write", "-h", "--help", "--"),
    ]
)
VALUES = st.sampled_from(
    [
        *("0", "1", "3", "-1", "1e9", "nan", "inf", "0x10", "٣", "1_0", "9" * 20, "9" * 5000),
        *("x.png", "x.gif", "no/x.png", ".", "..", "x.PNG", "\ud83d", "\udcff"),
    ]
) | st.text(st.characters(exclude_characters="\0/"), max_size=6)
ARGUMENTS = st.tuples(WORDS, st.lists(WORDS | FLAGS | VALUES, max_size=6)).map(lambda words: [words[0], *words[1]])


@pytest.fixture(scope="module")
def harmless():
    """The commands up to their real work, which takes minutes: pictures are black, and no checkpoint is trained."""
    with pytest.MonkeyPatch.context() as patch, folder() as path:
        patch.chdir(path)
        patch.setattr(
            generate, "draw_prompts", lambda system, prompts, *a, **k: np.zeros((len(prompts), 4, 4, 3), "u1")
        )
        patch.setattr(training, "train_one", lambda recipe, minutes, device, args: None)
        for name in ("doctor", "list_all", "evaluate"):
            patch.setattr(cli.commands, name, lambda args: 0)
        patch.setattr(cli.export, "export", lambda args: 0)
        yield


@given(arguments=ARGUMENTS)
@example(arguments=["draw", "--out", "\udcff.png"])
@example(arguments=["draw", "cat", "--negative", "\ud83d"])
@example(arguments=["draw", "a cat", "\x1e"])
@example(arguments=["draw", "a\ncat", "--steps", "a\nfew"])
@example(arguments=["draw", "a\ncat\x1b[31m", "--count", "1"])
@example(arguments=["draw", "x" * 300, "--out", "y" * 300 + ".png"])
@example(arguments=["train", "vae", "--minutes", "1", "--run-dir", "x" * 300])
def test_any_arguments_work_or_get_one_sentence(harmless, arguments):
    said, shown = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", shown)
        patch.setattr(sys, "stderr", said)
        try:
            status = cli.main(arguments)
        except SystemExit as leaving:
            status = leaving.code
    lines = [line for line in said.getvalue().splitlines() if not line.startswith("course: note: ")]
    assert status in (0, 2), lines
    assert len(lines) == (status == 2) and all(line.startswith("course: ") for line in lines), (status, lines)


@given(
    value=st.text(max_size=8) | st.builds("{}.{}".format, st.text(max_size=4), st.sampled_from(["png", "JPG", "gif"]))
)
@example(value="\0.png")
def test_any_name_of_a_picture_is_taken_or_refused(value):
    with contextlib.suppress(CourseError):
        assert inputs.picture_file(value).suffix.lower() in inputs.PICTURE_TYPES
