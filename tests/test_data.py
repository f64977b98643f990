"""The shipped pictures: what is in them, that damage is noticed and explained, that splits stay apart."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from course_utils import data
from course_utils.data import (
    DATA_DIR,
    FIRST_STYLES,
    FLAT_STYLES,
    GROUPS,
    STYLES,
    load_emoji,
    to_tensor,
    to_uint8,
    verify,
)
from course_utils.errors import DataError

COMPLETE = (*FIRST_STYLES, "3d")  # the styles that have every concept
FILES = [
    "emoji_256.parquet",
    "emoji_64.parquet",
    "scenes_256.parquet",
    "splits.json",
    "text_encoder.json",
    "text_encoder.safetensors",
    "tokenizer.json",
    "xp7.parquet",
]


def everything(size=16):
    return load_emoji(size, styles=STYLES, split="all")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A private copy of the data files that the module reads instead of the shipped ones."""
    for name in (*FILES, "SHA256SUMS"):
        shutil.copy(DATA_DIR / name, tmp_path / name)
    monkeypatch.setattr(data, "DATA_DIR", tmp_path)
    return tmp_path


def test_counts():
    emoji = everything()
    counts, concepts = Counter(emoji.column("style")), set(emoji.column("concept"))
    assert set(counts) == set(STYLES) and set(emoji.column("group")) == set(GROUPS)
    assert {style for style in STYLES if counts[style] == len(concepts)} == set(COMPLETE) and len(concepts) > 1000
    assert min(counts.values()) > 350 and len(pairs(emoji)) == len(emoji)
    assert f"{len(concepts):,}" in (DATA_DIR / "README.md").read_text(encoding="utf-8")
    large = pq.read_table(DATA_DIR / "emoji_256.parquet", columns=["style"])["style"].to_pylist()
    assert Counter(large) == counts | {"3d": 100}


def test_a_style_without_a_concept_has_no_row_for_it():
    streamline, noto = (load_emoji(16, style, split="all") for style in ("streamline", "noto"))
    missing = set(noto.column("concept")) - set(streamline.column("concept"))
    assert missing and set(streamline.column("concept")) < set(noto.column("concept"))
    both = load_emoji(16, ("noto", "streamline"), split="all").select(lambda m: m["concept"] in missing)
    assert set(both.column("style")) == {"noto"}


def test_columns_of_the_files():
    table = pq.read_table(DATA_DIR / "emoji_64.parquet")
    assert table.column_names == [
        "id",
        "concept",
        "style",
        "group",
        "subgroup",
        "hexcode",
        "name_en",
        "name_zh",
        "tags_en",
        "tags_zh",
        "color",
        "recolors",
        "image",
        "size",
    ]
    frame = table.to_pandas() if _has_pandas() else table.to_pylist()
    row = frame.iloc[0] if _has_pandas() else frame[0]
    assert row["image"]["bytes"][:4] == b"RIFF" and row["image"]["path"].endswith(".webp")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"} and set(features) == set(table.column_names)
    assert len(set(table["id"].to_pylist())) == len(table)


def _has_pandas():
    try:
        import pandas  # noqa: F401
    except ImportError:
        return False
    return True


def test_names_are_in_both_languages():
    for meta in everything().meta:
        assert meta["name_en"].isascii() or set(meta["name_en"]) & set("’ñ"), meta["name_en"]
        assert any("\u4e00" <= letter <= "\u9fff" for letter in meta["name_zh"]) or meta["name_zh"] in ("DNA", "DVD")
        assert meta["tags_en"] and meta["tags_zh"]
    butterfly = next(m for m in everything().meta if m["concept"] == "butterfly")
    assert butterfly["name_zh"] == "蝴蝶" and butterfly["group"] == "animals-nature"


def test_sizes_and_budget():
    assert (DATA_DIR / "emoji_64.parquet").stat().st_size < 13e6
    assert (DATA_DIR / "emoji_256.parquet").stat().st_size < 26e6


@pytest.mark.parametrize("size", [16, 24, 32, 48, 64, 128, 256])
def test_pictures_at_every_size(size):
    emoji = load_emoji(size, styles=("noto",), groups=("food-drink",))
    assert emoji.rgba.shape == (len(emoji), size, size, 4) and emoji.rgba.dtype == np.uint8 and emoji.size == size
    visible = (emoji.rgba[..., 3] > 127).mean(axis=(1, 2))
    assert (visible > 0.08).all() and visible.mean() < 0.95
    assert (emoji.on_white()[emoji.rgba[..., 3] == 0] == 255).all()


def test_resizing_does_not_darken_edges():
    """A half-transparent edge pixel of a shrunken picture keeps the colour of the subject, not black."""
    small, large = (
        load_emoji(s, styles=("twemoji",), split="all").select(lambda m: m["concept"] == "red heart") for s in (16, 64)
    )
    color = np.median(large.rgba[large.rgba[..., 3] > 250], axis=0)[:3]
    edge = small.rgba[(small.rgba[..., 3] > 60) & (small.rgba[..., 3] < 200)]
    assert len(edge) > 8 and np.abs(edge[:, :3].astype(float) - color).max() < 60


def test_three_d_only_when_asked_for():
    assert set(load_emoji(16).column("style")) == set(FLAT_STYLES)
    assert set(load_emoji(16, styles=("3d",)).column("style")) == {"3d"}


def pairs(emoji):
    return set(zip(emoji.column("concept"), emoji.column("style"), strict=True))


def test_splits_are_disjoint_and_complete():
    train, test, both = (pairs(load_emoji(16, styles=STYLES, split=s)) for s in ("train", "test", "all"))
    assert not train & test and train | test == both
    assert max(Counter(concept for concept, _ in test).values()) == 1  # no concept is lost to the models
    have = Counter(style for _, style in both)
    assert Counter(style for _, style in test) == {style: round(0.1 * n) for style, n in have.items()}


def test_splits_are_the_published_ones():
    splits = data.load_splits()
    assert splits["held_out_styles"] == ["3d"]
    assert splits["test_pairs"][:2] == FIRST_TEST_PAIRS
    colors = [tuple(pair) for pair in splits["held_out_colors"]]
    assert ("pink", "butterfly") in colors and len(colors) == len(set(colors)) == 50


FIRST_TEST_PAIRS = [["3rd place medal", "3d"], ["Christmas tree", "twemoji"]]


def test_select_and_on():
    emoji = load_emoji(16)
    food = emoji.select(lambda m: m["group"] == "food-drink")
    mask = np.array(emoji.column("group")) == "food-drink"
    assert food.meta == emoji.select(mask).meta and len(food) == mask.sum() > 0
    assert emoji.select(np.array([3, 1])).meta == (emoji.meta[3], emoji.meta[1])
    assert len(emoji.select(lambda m: False)) == 0
    alpha = emoji.rgba[..., 3:] / 255
    exact = emoji.rgba[..., :3] * alpha + np.array([10, 200, 30]) * (1 - alpha)
    assert np.abs(emoji.on((10, 200, 30)) - exact).max() <= 0.51


def test_tensor_round_trip_is_exact():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    x = to_tensor(values)
    assert x.shape == (1, 3, 16, 16) and x.dtype == torch.float32 and x.min() == -1 and x.max() == 1
    assert (to_uint8(x) == values).all()
    pictures = load_emoji(32).on_white()[:200]
    assert (to_uint8(to_tensor(pictures)) == pictures).all()
    assert to_tensor(pictures)[7, 2, 5, 9] == pictures[7, 5, 9, 2] / 127.5 - 1
    assert (to_uint8(torch.tensor([9.0, -9.0]).reshape(1, 1, 1, 2)) == [[[[255], [0]]]]).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: load_emoji(100), "Unknown size 100: choose from 16, 24, 32, 48, 64, 128, 256."),
        (lambda: load_emoji("64"), "Unknown size '64'"),
        (
            lambda: load_emoji(styles=("noto", "xp")),
            "Unknown style 'xp': choose from noto, twemoji, fluent, blob, emoj",
        ),
        (lambda: load_emoji(styles="pixel"), "Unknown style 'pixel'"),
        (lambda: load_emoji(styles=()), "Unknown style '(none given)'"),
        (lambda: load_emoji(groups=("flags",)), "Unknown group 'flags': choose from smileys-emotion, animals-nature"),
        (lambda: load_emoji(split="validation"), "Unknown split 'validation': choose from train, test, all."),
        (lambda: to_tensor(np.zeros((2, 8, 8, 3))), "to_tensor wants uint8 pictures (N, H, W, C)"),
        (lambda: to_uint8(torch.zeros(3, 8, 8)), "to_uint8 wants a batch (N, C, H, W)"),
    ],
)
def test_bad_requests_get_one_sentence(call, words):
    with pytest.raises(DataError) as error:
        call()
    assert words in str(error.value) and "\n" not in str(error.value)


def test_verify_says_ok():
    assert verify() == [(name, "ok") for name in FILES]


def delete(path):
    path.unlink()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flip_one_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("damage", "words"),
    [(delete, "missing"), (truncate, "truncated or altered"), (flip_one_bit, "truncated or altered")],
)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_noticed(copy, name, damage, words):
    damage(copy / name)
    status = dict(verify())
    assert status[name] == f"{words}: run `git checkout -- data/{name}`, or clone the course again"
    assert all(status[other] == "ok" for other in FILES if other != name)
    with pytest.raises(DataError) as error:
        load_emoji(256 if "256" in name else 64)
        data.load_scenes.__wrapped__(64)
        data.tokenizer_file()
        data.text_encoder_files()
        data.read_table(copy / "xp7.parquet")
    assert words in str(error.value) and f"git checkout -- data/{name}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_manifest_is_explained(copy):
    (copy / "SHA256SUMS").unlink()
    for call in (verify, load_emoji):
        with pytest.raises(DataError, match="SHA256SUMS is missing or altered: run `git checkout"):
            call()


def test_course_data_names_another_folder(tmp_path):
    code = "import course_utils.data as d; print(d.DATA_DIR); d.load_emoji()"
    env = {**os.environ, "COURSE_DATA": str(tmp_path / "elsewhere")}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=DATA_DIR.parent)
    assert run.stdout.strip() == str(tmp_path / "elsewhere")
    assert "DataError" in run.stderr and "or set COURSE_DATA" in run.stderr


def test_importing_is_light():
    code = "import sys, course_utils.data; print([m for m in ('torch', 'pyarrow', 'PIL') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=DATA_DIR.parent)
    assert run.stdout.strip() == "[]", run.stderr


def test_scenes():
    scenes = data.load_scenes(32)
    assert len(scenes) == 6 and all(s.shape == (40, 32, 32, 3) and s.dtype == np.uint8 for s in scenes.values())
    assert all(len({painting.tobytes() for painting in s}) == 40 for s in scenes.values())
