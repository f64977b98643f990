"""Print the counts that stand in data/README.md: `python data/build/card.py`."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow.parquet as pq
from sums import DATA, NAMES


def main() -> None:
    for name in NAMES:
        print(f"{name:20} {(DATA / name).stat().st_size / 1e6:6.2f} MB")
    rows = pq.read_table(DATA / "emoji_64.parquet").drop_columns(["image"]).to_pylist()
    large = pq.read_table(DATA / "emoji_256.parquet").drop_columns(["image"]).to_pylist()
    splits = json.loads((DATA / "splits.json").read_text(encoding="utf-8"))
    test = {tuple(pair) for pair in splits["test_pairs"]}
    print("\n| group | concepts | pictures of 64 px | of these test | pictures of 256 px |\n|---|---|---|---|---|")
    for group in dict.fromkeys(row["group"] for row in rows):
        mine = [row for row in rows if row["group"] == group]
        tests = sum((row["concept"], row["style"]) in test for row in mine)
        print(
            f"| {group} | {len({row['concept'] for row in mine})} | {len(mine)} | {tests} "
            f"| {sum(row['group'] == group for row in large)} |"
        )
    print(f"| all | {len({row['concept'] for row in rows})} | {len(rows)} | {len(test)} | {len(large)} |")
    print("\n| style | pictures of 64 px | of these test | pictures of 256 px |\n|---|---|---|---|")
    for style in dict.fromkeys(row["style"] for row in rows):
        mine = [row for row in rows if row["style"] == style]
        print(
            f"| `{style}` | {len(mine)} | {sum((row['concept'], style) in test for row in mine)} "
            f"| {sum(row['style'] == style for row in large)} |"
        )
    flat = Counter(row["concept"] for row in rows if row["style"] not in splits["held_out_styles"])
    print("\nconcepts by number of flat styles:", dict(sorted(Counter(flat.values()).items())))
    print("natural colour:", dict(Counter(str(row["color"]) for row in rows).most_common()))
    print(
        "can be repainted:",
        sum(bool(row["recolors"]) for row in rows),
        "pictures,",
        sum(len(row["recolors"]) for row in rows),
        "(picture, colour) pairs",
    )
    print("held-out (colour, concept) pairs:", len(splits["held_out_colors"]))
    xp7 = pq.read_table(DATA / "xp7.parquet").drop_columns(["image"]).to_pylist()
    for split in ("train", "unseen"):
        print(f"XP7, {split}:", dict(Counter(row["background"] for row in xp7 if row["split"] == split).most_common()))


if __name__ == "__main__":
    main()
