"""Make the pictures in data/ from five npm packages: `python data/build/build.py` (needs npm and requirements.txt).

The same packages and the same pinned requirements give the same bytes.
"""
from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
import scenes
from colors import find_colors
from PIL import Image
from sources import load_names, load_svgs, load_webps
from splits import make_splits
from sums import DATA, write_sums

STYLES = ("noto", "twemoji", "fluent", "3d")
GROUPS = ["smileys-emotion", "animals-nature", "food-drink", "travel-places", "activities", "objects"]
LARGE_CONCEPTS = 200  # of emoji_256: every fifth concept in the three flat styles, which compress well, …
LARGE_3D_EVERY = 2  # … and every second one of those in 3D, which takes ten times the bytes

SCHEMA = pa.schema([
    ("id", pa.string()), ("concept", pa.string()), ("style", pa.string()), ("group", pa.string()),
    ("subgroup", pa.string()), ("hexcode", pa.string()), ("name_en", pa.string()), ("name_zh", pa.string()),
    ("tags_en", pa.list_(pa.string())), ("tags_zh", pa.list_(pa.string())),
    ("color", pa.string()), ("recolors", pa.list_(pa.string())),
    ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("size", pa.int32())])
SCENE_SCHEMA = pa.schema([("id", pa.string()), ("scene", pa.string()), SCHEMA.field("image"), SCHEMA.field("size")])


def draw(source: str | bytes, size: int) -> Image.Image:
    """One picture as RGBA at size × size, from SVG text or WebP bytes, with colour zeroed where nothing is visible."""
    if isinstance(source, str):
        picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(
            svg_string=source, width=size, height=size, skip_system_fonts=True))))
    else:
        picture = Image.open(io.BytesIO(source))
    picture = picture.convert("RGBA")
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)  # Pillow premultiplies alpha itself
    pixels = np.array(picture)
    pixels[pixels[..., 3] == 0] = 0  # invisible colour costs bytes and leaks into careless resizing
    return Image.fromarray(pixels)


def encode(picture: Image.Image) -> bytes:
    """Lossless WebP; quality 90 is the effort: 100 takes 13 times as long for 2 % fewer bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, quality=90, method=6, exact=True)
    return buffer.getvalue()


def picture_rows(rows: list[dict], sources: dict, styles: tuple, size: int) -> list[dict]:
    """Render every (concept, style) pair: one dict a picture, as in SCHEMA, plus its `pixels`."""
    records = []
    for row in rows:
        for style in styles:
            name, picture = f"{row['hexcode']}-{style}", draw(sources[style][row["hexcode"]], size)
            image = {"bytes": encode(picture), "path": f"{name}.webp"}
            records.append({"id": name, "style": style, **row, "image": image, "size": size,
                            "pixels": np.array(picture)})
    return records


def write_table(path: Path, records: list[dict], schema: pa.Schema) -> None:
    """One Parquet file that pandas reads and `datasets` shows as pictures."""
    table = pa.Table.from_pylist(records, schema=schema.with_metadata({"huggingface": hub_features(schema)}))
    pq.write_table(table, path, compression="zstd", row_group_size=1024)


def hub_features(schema: pa.Schema) -> str:
    """The note that makes Hugging Face `datasets` decode the `image` column as pictures."""
    kinds = {field.name: {"dtype": str(field.type), "_type": "Value"} for field in schema}
    for field in schema:
        if pa.types.is_list(field.type):
            kinds[field.name] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "List"}
    kinds["image"] = {"_type": "Image"}
    return json.dumps({"info": {"features": kinds}})


def paint_scenes() -> list[dict]:
    """The painted backgrounds, one dict a picture."""
    rng = np.random.default_rng(0)
    return [{"id": f"{scene}-{k}", "scene": scene, "size": 256,
             "image": {"bytes": encode(Image.fromarray(scenes.paint(scene, 256, rng))), "path": f"{scene}-{k}.webp"}}
            for scene in scenes.SCENES for k in range(scenes.VARIANTS)]


def main() -> None:
    sources = {style: load_svgs(style) for style in STYLES[:3]} | {"3d": load_webps()}
    rows = [row for row in load_names(GROUPS) if all(row["hexcode"] in sources[style] for style in STYLES)]
    small = picture_rows(rows, sources, STYLES, 64)
    for record in small:
        record["color"], record["recolors"] = find_colors(record["pixels"], record["name_en"], record["name_zh"])
    chosen = [rows[i * len(rows) // LARGE_CONCEPTS] for i in range(LARGE_CONCEPTS)]  # Unicode order: all groups
    large = picture_rows(chosen, sources, STYLES[:3], 256)
    large += picture_rows(chosen[::LARGE_3D_EVERY], sources, STYLES[3:], 256)
    known = {record["id"]: record for record in small}
    for record in large:
        record["color"], record["recolors"] = known[record["id"]]["color"], known[record["id"]]["recolors"]
    write_table(DATA / "emoji_64.parquet", small, SCHEMA)
    write_table(DATA / "emoji_256.parquet", large, SCHEMA)
    write_table(DATA / "scenes_256.parquet", paint_scenes(), SCENE_SCHEMA)
    splits = make_splits(small, STYLES)
    (DATA / "splits.json").write_text(json.dumps(splits, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_sums()


if __name__ == "__main__":
    main()
