"""Make the pictures in data/ from nine npm packages: `python data/build/build.py` (needs npm and requirements.txt).

The same packages and the same pinned requirements give the same bytes.
"""

from __future__ import annotations

import io
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
import scenes
from colors import find_colors
from PIL import Image
from sources import load_named_svgs, load_names, load_svgs, load_webps
from splits import make_splits
from sums import DATA, write_sums

STYLES = ("noto", "twemoji", "fluent", "blob", "emojione", "firefox", "streamline", "3d")
COMPLETE = ("noto", "twemoji", "fluent", "3d")  # a concept has these four, and whichever others know it
FLAT = STYLES[:-1]
SMALL, LARGE = 64, 256  # pixels
GROUPS = ["smileys-emotion", "animals-nature", "food-drink", "travel-places", "activities", "objects"]
LARGE_3D = 100  # concepts of emoji_256 in 3D, which takes seven times the bytes of a flat picture

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("concept", pa.string()),
        ("style", pa.string()),
        ("group", pa.string()),
        ("subgroup", pa.string()),
        ("hexcode", pa.string()),
        ("name_en", pa.string()),
        ("name_zh", pa.string()),
        ("tags_en", pa.list_(pa.string())),
        ("tags_zh", pa.list_(pa.string())),
        ("color", pa.string()),
        ("recolors", pa.list_(pa.string())),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("size", pa.int32()),
    ]
)
SCENE_SCHEMA = pa.schema([("id", pa.string()), ("scene", pa.string()), SCHEMA.field("image"), SCHEMA.field("size")])


def draw(source: str | bytes, size: int) -> Image.Image:
    """One picture as RGBA at size × size, from SVG text or WebP bytes, with colour zeroed where nothing is visible."""
    if isinstance(source, str):
        picture = Image.open(
            io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=source, width=size, height=size, skip_system_fonts=True)))
        )
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


def picture_row(job: tuple[dict, str, str | bytes, int]) -> dict:
    """One picture of a concept, style, source and size: a dict as in SCHEMA, with its colours if it is a small one."""
    row, style, source, size = job
    name, picture = f"{row['hexcode']}-{style}", draw(source, size)
    record = {
        "id": name,
        "style": style,
        **row,
        "size": size,
        "image": {"bytes": encode(picture), "path": f"{name}.webp"},
    }
    if size == SMALL:
        record["color"], record["recolors"] = find_colors(np.array(picture), row["name_en"], row["name_zh"])
    return record


def picture_rows(rows: list[dict], sources: dict, styles: tuple, size: int) -> list[dict]:
    """Every concept in every one of the styles that has it: one dict a picture, made on all cores."""
    jobs = [
        (row, style, sources[style][row["hexcode"]], size)
        for row in rows
        for style in styles
        if row["hexcode"] in sources[style]
    ]
    with ProcessPoolExecutor() as pool:
        return list(pool.map(picture_row, jobs, chunksize=32))


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
    return [
        {
            "id": f"{scene}-{k}",
            "scene": scene,
            "size": LARGE,
            "image": {"bytes": encode(Image.fromarray(scenes.paint(scene, LARGE, rng))), "path": f"{scene}-{k}.webp"},
        }
        for scene in scenes.SCENES
        for k in range(scenes.VARIANTS)
    ]


def main() -> None:
    sources = {style: load_svgs(style) for style in FLAT if style in COMPLETE} | {"3d": load_webps()}
    rows = [row for row in load_names(GROUPS) if all(row["hexcode"] in sources[style] for style in COMPLETE)]
    sources |= {style: load_named_svgs(style, rows) for style in FLAT if style not in COMPLETE}
    small = picture_rows(rows, sources, STYLES, SMALL)
    splits, left_out = make_splits(small, COMPLETE, STYLES)
    small = [record for record in small if record["id"] not in left_out]
    chosen = [rows[i * len(rows) // LARGE_3D] for i in range(LARGE_3D)]  # Unicode order: all groups
    large = picture_rows(rows, sources, FLAT, LARGE) + picture_rows(chosen, sources, STYLES[-1:], LARGE)
    known = {record["id"]: record for record in small}
    large = [
        record | {key: known[record["id"]][key] for key in ("color", "recolors")}
        for record in large
        if record["id"] in known
    ]
    write_table(DATA / "emoji_64.parquet", small, SCHEMA)
    write_table(DATA / "emoji_256.parquet", large, SCHEMA)
    write_table(DATA / "scenes_256.parquet", paint_scenes(), SCENE_SCHEMA)
    (DATA / "splits.json").write_text(json.dumps(splits, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_sums()


if __name__ == "__main__":
    main()
