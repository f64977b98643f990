"""The nine packages the pictures and names come from: fetched through npm at a pinned version, checked by sha256."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

from names import match

CACHE = Path(__file__).parent / "cache"

# package, version, sha256 of the tarball that `npm pack` fetches
PACKAGES = {
    "noto": ("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "twemoji": ("@iconify-json/twemoji", "1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    "fluent": (
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "blob": ("@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    "emojione": ("@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    "firefox": ("@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
    "streamline": (
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
    ),
    "3d": ("@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"),
    "names": ("emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a"),
}


def fetch(key: str) -> tarfile.TarFile:
    """Open one package, downloaded first if `cache/` lacks it; SystemExit if its bytes are not the pinned ones."""
    name, version, expected = PACKAGES[key]
    path = CACHE / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"  # the file name npm itself gives
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        subprocess.run(
            ["npm", "pack", "--silent", f"{name}@{version}"], cwd=CACHE, check=True, stdout=subprocess.DEVNULL
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise SystemExit(f"{path.name}: sha256 is {found}, expected {expected}; delete it and run again.")
    return tarfile.open(path)


def read_json(archive: tarfile.TarFile, member: str) -> dict | list:
    """Parse one JSON file of a package."""
    return json.loads(archive.extractfile(f"package/{member}").read())


def plain_hex(hexcode: str) -> str:
    """The key all packages agree on: lower case, without the variation selector U+FE0F that only some of them write."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def load_names(groups: list[str]) -> list[dict]:
    """English and Chinese names and tags of every emoji in `groups`, in Unicode order, one entry per base emoji."""
    archive = fetch("names")
    meta = read_json(archive, "meta/groups.json")
    chinese = {entry["hexcode"]: entry for entry in read_json(archive, "zh/data.json")}
    rows = []
    for entry in sorted(read_json(archive, "en/data.json"), key=lambda e: e.get("order", 0)):
        group = meta["groups"].get(str(entry.get("group")))
        zh = chinese.get(entry["hexcode"])
        if group not in groups or zh is None:
            continue
        rows.append(
            {
                "concept": entry["label"],
                "group": group,
                "hexcode": plain_hex(entry["hexcode"]),
                "subgroup": meta["subgroups"][str(entry["subgroup"])],
                "name_en": entry["label"],
                "name_zh": zh["label"],
                "tags_en": entry.get("tags", []),
                "tags_zh": zh.get("tags", []),
            }
        )
    return rows


def read_svg(icons: dict, name: str) -> str:
    """SVG text of one icon of an Iconify package."""
    icon = icons["icons"].get(name)
    if icon is None:  # an alias: the picture is its parent's
        icon = icons["icons"][icons["aliases"][name]["parent"]]
    box = [
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
    )


def load_svgs(style: str) -> dict[str, str]:
    """SVG text of every emoji of an Iconify package that lists its code points, keyed by plain hexcode."""
    archive = fetch(style)
    icons = read_json(archive, "icons.json")
    svgs = {}
    for hexcode, name in read_json(archive, "chars.json").items():
        svgs.setdefault(plain_hex(hexcode), read_svg(icons, name))
    return svgs


def load_named_svgs(style: str, rows: list[dict]) -> dict[str, str]:
    """SVG text of the concepts in `rows` that an Iconify package without code points has, keyed by plain hexcode."""
    icons = read_json(fetch(style), "icons.json")
    found = match(style, rows, {*icons["icons"], *icons.get("aliases", {})})
    ways = Counter(way for _, way in found.values())
    print(f"{style}: {len(found)} concepts,", ", ".join(f"{count} by {way}" for way, count in ways.items()))
    return {hexcode: read_svg(icons, name) for hexcode, (name, _) in found.items()}


def load_webps() -> dict[str, bytes]:
    """The 256-pixel WebP files of the 3D package, keyed by plain hexcode."""
    archive = fetch("3d")
    files = {}
    for member in sorted(archive.getmembers(), key=lambda m: m.name):
        if member.name.endswith(".webp"):
            files.setdefault(plain_hex(Path(member.name).stem), archive.extractfile(member).read())
    return files
