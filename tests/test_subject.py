"""XP7 is one car in twenty different pictures, unmistakable, truly captioned, and drawn by the script beside it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from course_utils import checkpoints, data
from course_utils.data import DATA_DIR, STYLES, load_emoji, load_scenes, to_tensor, to_uint8
from course_utils.datasets import xp7
from course_utils.datasets.compose import BACKGROUNDS, PLAIN, SCENES, WORDS_ZH, _hsv
from course_utils.datasets.xp7 import Subject, load_xp7
from course_utils.decoder.vae import VAE
from course_utils.errors import DataError
from course_utils.evaluation.evaluator import class_names, load_evaluator


def everything(size=64):
    return load_xp7("all", size)


def masks():
    """Where the car is, bool (20, 256, 256): all that differs from the background alone, and which painting that is."""
    found, paintings = [], []
    for picture, meta in zip(everything(256).pictures, everything().meta, strict=True):
        plain = meta["background"] in PLAIN
        behind = (
            np.full((1, 256, 256, 3), PLAIN[meta["background"]][0], np.uint8)
            if plain
            else load_scenes(256)[meta["background"]]
        )
        different = (behind != picture).any(axis=-1)
        painting = int(different.sum(axis=(1, 2)).argmin())
        found.append(different[painting])
        paintings.append((meta["background"], painting))
    return np.stack(found), paintings


def test_counts_and_shapes():
    for split, count in (("train", 12), ("unseen", 8), ("all", 20)):
        xp7 = load_xp7(split)
        assert isinstance(xp7, Subject) and len(xp7) == len(xp7.meta) == len(xp7.captions("zh")) == count
        assert xp7.pictures.shape == (count, 64, 64, 3) and xp7.pictures.dtype == np.uint8
        assert split == "all" or {meta["split"] for meta in xp7.meta} == {split}
    assert len({meta["id"] for meta in everything().meta}) == 20


@pytest.mark.parametrize("size", [16, 24, 32, 48, 64, 128, 256])
def test_every_size(size):
    pictures = load_xp7("unseen", size).pictures
    assert pictures.shape == (8, size, size, 3)
    assert np.abs(pictures.mean((1, 2)) - load_xp7("unseen", 256).pictures.mean((1, 2))).max() < 2


def test_the_file():
    table = pq.read_table(DATA_DIR / "xp7.parquet")
    assert table.column_names == ["id", "split", "pose", "background", "caption_en", "caption_zh", "image", "size"]
    assert (DATA_DIR / "xp7.parquet").stat().st_size < 1e6
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"} and set(features) == set(table.column_names)
    row = table.to_pylist()[0]
    assert row["image"]["bytes"][:4] == b"RIFF" and row["image"]["path"] == row["id"] + ".webp" and row["size"] == 256
    assert dict(data.verify())["xp7.parquet"] == "ok"


def test_captions_name_the_background():
    for meta in everything().meta:
        background = meta["background"]
        assert background in BACKGROUNDS and set(meta) == {
            "id",
            "split",
            "pose",
            "background",
            "caption_en",
            "caption_zh",
        }
        if background in SCENES:
            expected = f"XP7 car, {background}", f"XP7汽车，{SCENES[background]}"
        else:
            expected = f"XP7 car, {background} background", f"XP7汽车，{PLAIN[background][1]}背景"
        assert (meta["caption_en"], meta["caption_zh"]) == expected
    assert "XP7 car, blue sky and grass" in load_xp7().captions()
    assert "XP7汽车，蓝天，草地" in load_xp7().captions("zh")
    assert not any(
        word in caption
        for caption in everything().captions("zh")
        for word in ("风格", *(f"{color}的" for color in WORDS_ZH.values()))
    )


def test_poses_and_backgrounds_vary():
    train, unseen = (Counter(meta["background"] for meta in load_xp7(split).meta) for split in ("train", "unseen"))
    assert set(SCENES) <= set(train) and "white" in train and len(set(train) & set(PLAIN)) >= 3
    assert unseen["blue sky and grass"] >= 3 and len(unseen) >= 5
    words = ("side", "three-quarter front", "three-quarter rear", "uphill", "downhill")
    poses = {meta["pose"] for meta in everything().meta}
    assert poses <= {f"{word}, facing {way}" for word in words for way in ("left", "right")} and len(poses) >= 8
    assert {pose.split(",")[0] for pose in poses} == set(words)


def test_the_car_fills_the_frame_and_stays_in_it():
    cars, _ = masks()
    widths = []
    for car in cars:
        columns, rows = (np.flatnonzero(car.any(axis=axis)) for axis in (0, 1))
        assert columns[0] > 0 and columns[-1] < 255 and rows[0] > 0 and rows[-1] < 255, "nothing is cut off"
        widths.append((columns[-1] - columns[0] + 1) / 256)
        assert 0.3 < (rows[-1] - rows[0] + 1) / 256 < 0.65 and car.mean() > 0.2
    assert 0.8 < min(widths) < 0.86 and 0.93 < max(widths) < 0.97 and len({round(w, 2) for w in widths}) > 6


def test_unseen_pictures_are_other_pictures():
    _, paintings = masks()
    assert not {p for p in paintings[:12] if p[0] in SCENES} & set(paintings[12:]), "no painting stands in both"
    pictures = everything().pictures.astype(float)
    apart = np.abs(pictures[:, None] - pictures[None]).mean((2, 3, 4)) + 1e9 * np.eye(20)
    assert apart.min() > 5, "all twenty differ"
    assert apart[12:, :12].min(axis=1).min() > 8, "each unseen one from all to learn from"


def paints(rgb):
    """The shares of teal, of orange and of white among pixels, uint8 (n, 3)."""
    hue, saturation, value = _hsv(rgb)
    strong = (saturation > 0.5) & (value > 0.4)
    return [
        float(share.mean())
        for share in (
            strong & (np.abs(hue - 2.9) < 0.2),
            strong & (np.abs(hue - 0.45) < 0.2),
            (saturation < 0.08) & (value > 0.93),
        )
    ]


def test_it_is_one_car_by_its_colours():
    cars, _ = masks()
    for picture, car in zip(everything(256).pictures, cars, strict=True):
        teal, orange, _ = paints(picture[car])
        assert teal > 0.25 and 0.04 < orange < 0.25, (teal, orange)


CARS = {
    "automobile",
    "oncoming automobile",
    "taxi",
    "oncoming taxi",
    "police car",
    "oncoming police car",
    "racing car",
    "sport utility vehicle",
    "pickup truck",
    "minibus",
    "bus",
    "oncoming bus",
    "trolleybus",
    "ambulance",
    "fire engine",
    "delivery truck",
    "articulated lorry",
    "tractor",
    "auto rickshaw",
}


def test_no_car_of_the_emoji_looks_like_it():
    cars = load_emoji(64, styles=STYLES, split="all").select(lambda meta: meta["concept"] in CARS)
    assert set(cars.column("concept")) == CARS and set(cars.column("style")) == set(STYLES)
    alike = [
        meta["concept"]
        for meta, rgba in zip(cars.meta, cars.rgba, strict=True)
        if (shares := paints(rgba[rgba[..., 3] > 200][:, :3]))[0] > 0.15 and shares[1] > 0.02
    ]
    assert alike == []


def test_the_evaluator_sees_the_backgrounds():
    """The pictures lie in the world that the models know."""
    with torch.inference_mode():
        said = load_evaluator()(to_tensor(everything().pictures)).background.argmax(1)
    right = [
        class_names()["background"][i] == meta["background"] for i, meta in zip(said, everything().meta, strict=True)
    ]
    assert sum(right) >= 17, right


def test_the_autoencoder_keeps_the_car():
    """Its areas are large enough for the latents in which it is to be learned."""
    vae, pictures = checkpoints.load("vae", VAE()), everything().pictures
    with torch.inference_mode():
        kept = to_uint8(vae.decode(vae.encode(to_tensor(pictures)).mean))
    error = ((pictures.astype(float) - kept) ** 2).mean((1, 2, 3))
    assert (10 * np.log10(255**2 / error)).mean() > 23


def test_every_caller_gets_pictures_of_their_own():
    first = load_xp7()
    first.pictures[:] = 0
    assert load_xp7().pictures.mean() > 50


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: load_xp7("test"), "Unknown split 'test': choose from train, unseen, all."),
        (lambda: load_xp7(64), "Unknown split 64"),
        (lambda: load_xp7(["train"]), "Unknown split ['train']"),
        (lambda: load_xp7(size=100), "Unknown size 100: choose from 16, 24, 32, 48, 64, 128, 256."),
        (lambda: load_xp7(size="64"), "Unknown size '64'"),
        (lambda: load_xp7(size=[64]), "Unknown size [64]"),
        (lambda: load_xp7().captions("fr"), "Unknown language 'fr': choose from en, zh."),
    ],
)
def test_bad_requests_get_one_sentence(call, words):
    with pytest.raises(DataError) as error:
        call()
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_a_damaged_file_is_explained(tmp_path, monkeypatch, damage):
    shutil.copy(DATA_DIR / "SHA256SUMS", tmp_path)
    if damage == "altered":
        (tmp_path / "xp7.parquet").write_bytes((DATA_DIR / "xp7.parquet").read_bytes()[:-1])
    monkeypatch.setattr(xp7, "DATA_DIR", tmp_path)
    with pytest.raises(DataError, match=re.escape("git checkout -- data/xp7.parquet")):
        load_xp7()


REBUILD = """
import io, json, sys
import numpy as np
from PIL import Image
import subject
rows = subject.rows()
again = subject.encode(subject.picture(*subject.SHOTS["train"][0][1:]))
assert again == rows[0]["image"]["bytes"], "the same bytes each time"
pictures = np.stack([np.asarray(Image.open(io.BytesIO(row.pop("image")["bytes"])).convert("RGB")) for row in rows])
np.savez_compressed(sys.argv[1], pictures=pictures, rows=json.dumps(rows))
"""


def test_the_script_draws_the_same_pictures_again(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    made = subprocess.run(
        [sys.executable, "-c", REBUILD, str(tmp_path / "made.npz")],
        capture_output=True,
        text=True,
        cwd=DATA_DIR / "build",
        env=environment,
    )
    assert made.returncode == 0, made.stderr
    with np.load(tmp_path / "made.npz") as again:
        assert json.loads(str(again["rows"])) == [{**meta, "size": 256} for meta in everything().meta]
        difference = np.abs(again["pictures"].astype(int) - everything(256).pictures)
    assert difference.mean() < 0.02, "another processor may round a few pixels differently"
