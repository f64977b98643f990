"""A learner's folder: photos of many kinds become squares, everything else is named with its reason, nothing hangs."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from course_utils.datasets import photos
from course_utils.datasets.photos import load_photos
from course_utils.errors import InputError

LEFT, RIGHT, TOP = (200, 30, 40), (30, 90, 210), (40, 180, 60)


def scene(width=120, height=90):
    """A photo whose directions can be told: red on the left, blue on the right, a green stripe along the top."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :], pixels[: height // 4] = LEFT, RIGHT, TOP
    return Image.fromarray(pixels)


def is_scene(square, tolerance=14):
    """Whether a square shows that scene upright, in its colours."""
    n = len(square)
    spots = {(0.6, 0.25): LEFT, (0.6, 0.75): RIGHT, (0.1, 0.5): TOP}
    return all(
        np.abs(square[int(y * n), int(x * n)].astype(int) - color).max() <= tolerance for (y, x), color in spots.items()
    )


def encoded(picture, form, **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width, height):
    """A PNG of a few hundred bytes that claims to unpack to width x height."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.fixture
def folder(tmp_path):
    """A folder with one good photo in it."""
    (tmp_path / "good.jpg").write_bytes(encoded(scene(), "JPEG", quality=95))
    return tmp_path


def reasons(folder):
    return dict(load_photos(folder).skipped)


def sixteen_bits():
    ramp = np.linspace(0, 65535, 100, dtype=np.uint16)[None].repeat(80, 0)
    return encoded(Image.fromarray(ramp), "PNG")


def transparent():
    picture = scene().convert("RGBA")
    picture.putalpha(Image.fromarray(np.r_[np.zeros((45, 120), np.uint8), np.full((45, 120), 255, np.uint8)]))
    return picture


def turned(orientation, undo):
    """A JPEG whose pixels lie on their side and whose EXIF note says how to turn them."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(scene().transpose(undo), "JPEG", quality=95, exif=exif)


GOOD = {
    "a.jpg": lambda: encoded(scene(), "JPEG", quality=95),
    "a.JPEG": lambda: encoded(scene(), "JPEG", quality=95),
    "a.png": lambda: encoded(scene(), "PNG"),
    "a.PNG": lambda: encoded(scene(), "PNG"),
    "a.webp": lambda: encoded(scene(), "WEBP", quality=95),
    "a png named.jpg": lambda: encoded(scene(), "PNG"),
    "no ending": lambda: encoded(scene(), "PNG"),
    "cmyk.jpg": lambda: encoded(scene().convert("CMYK"), "JPEG", quality=95),
    "palette.png": lambda: encoded(scene().quantize(8), "PNG"),
    "progressive.jpg": lambda: encoded(scene(), "JPEG", quality=95, progressive=True),
    "portrait.png": lambda: encoded(scene(90, 120), "PNG"),
    "large.jpg": lambda: encoded(scene(3000, 2250), "JPEG"),
    "interlaced and opaque.png": lambda: encoded(scene().convert("RGBA"), "PNG"),
    "two in one, as phones write them.jpg": lambda: encoded(
        scene(), "MPO", save_all=True, quality=95, append_images=[Image.new("RGB", (120, 90))]
    ),
    "turned 90.jpg": lambda: turned(6, Image.Transpose.ROTATE_90),
    "turned 180.jpg": lambda: turned(3, Image.Transpose.ROTATE_180),
    "turned 270.jpg": lambda: turned(8, Image.Transpose.ROTATE_270),
    "mirrored.jpg": lambda: turned(2, Image.Transpose.FLIP_LEFT_RIGHT),
    "照片 été.png": lambda: encoded(scene(), "PNG"),
    "broken note.jpg": lambda: encoded(scene(), "JPEG", quality=95, exif=b"Exif\0\0no such thing"),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_photos_come_out_upright_and_in_their_colours(tmp_path, name):
    (tmp_path / name).write_bytes(GOOD[name]())
    found = load_photos(tmp_path, size=32)
    assert found.pictures.shape == (1, 32, 32, 3) and found.pictures.dtype == np.uint8
    assert found.names == (name,) and found.skipped == () and len(found) == 1
    assert is_scene(found.pictures[0])
    assert found.report() == "1 picture"


def test_sixteen_bits_keep_their_shades(tmp_path):
    (tmp_path / "grey.png").write_bytes(sixteen_bits())
    row = load_photos(tmp_path).pictures[0, 32, :, 0].astype(int)
    assert (np.diff(row) >= 0).all() and row[0] < 40 and row[-1] > 215 and 110 < row[32] < 145


def palette_with_hole():
    picture = transparent().quantize(16)
    return encoded(picture, "PNG")


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("rgba.png", lambda: encoded(transparent(), "PNG")),
        ("palette.png", palette_with_hole),
        ("rgba.webp", lambda: encoded(transparent(), "WEBP", lossless=True)),
        ("grey.png", lambda: encoded(transparent().convert("LA"), "PNG")),
    ],
)
def test_what_is_transparent_becomes_white(tmp_path, name, make):
    (tmp_path / name).write_bytes(make())
    square = load_photos(tmp_path).pictures[0]
    assert (square[:28] > 250).all() and (square[36:, 4:28] < 220).any(axis=-1).all()


def test_the_middle_is_kept_and_shrunk_smoothly(tmp_path):
    stripes = np.zeros((200, 600, 3), np.uint8)
    stripes[:, 200:400:2] = 255  # the middle square: lines one pixel wide, that must melt into grey
    Image.fromarray(stripes).save(tmp_path / "wide.png")
    square = load_photos(tmp_path, size=50).pictures[0]
    assert np.abs(square[:, 3:-3].astype(int) - 127).max() < 12


def heic(brand):
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1heic" + bytes(500)


def animation(form):
    frames = [Image.new("RGB", (80, 80), color) for color in ("red", "green", "blue")]
    return encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=100)


def half(content):
    return content[: len(content) // 2]


def noise():
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 100, 3), dtype=np.uint8))


def flipped_bytes():
    content = bytearray(encoded(noise(), "PNG"))
    content[len(content) // 2] ^= 255
    return bytes(content)


BAD = {
    "phone.heic": (lambda: heic(b"heic"), "HEIC: save it as JPEG"),
    "phone.HEIC": (lambda: heic(b"mif1"), "HEIC: save it as JPEG"),
    "heic named.jpg": (lambda: heic(b"heix"), "HEIC: save it as JPEG"),
    "new.avif": (lambda: heic(b"avif"), "AVIF: save it as JPEG"),
    "cut.jpg": (lambda: half(encoded(noise(), "JPEG")), "broken or cut off: copy or save it again"),
    "cut.png": (lambda: half(encoded(noise(), "PNG")), "broken or cut off: copy or save it again"),
    "cut.webp": (lambda: half(encoded(noise(), "WEBP")), "broken or cut off: copy or save it again"),
    "header only.jpg": (lambda: b"\xff\xd8\xff\xe0", "broken or cut off: copy or save it again"),
    "header only.png": (lambda: b"\x89PNG\r\n\x1a\n", "broken or cut off: copy or save it again"),
    "flipped.png": (flipped_bytes, "broken or cut off: copy or save it again"),
    "empty.jpg": (lambda: b"", "an empty file"),
    "tiny.png": (lambda: encoded(scene(63, 200), "PNG"), "63 x 200 pixels: at least 64 a side are needed"),
    "dot.png": (lambda: encoded(Image.new("RGB", (1, 1)), "PNG"), "1 x 1 pixels: at least 64 a side are needed"),
    "huge.png": (lambda: bomb(10_001, 10_000), "more than 100 megapixels: save it smaller"),
    "bomb.png": (lambda: bomb(2**30, 2**30), "more than 100 megapixels: save it smaller"),
    "moves.gif": (lambda: animation("GIF"), "a GIF: save one picture of it as PNG"),
    "still.gif": (lambda: encoded(scene(), "GIF"), "a GIF: save one picture of it as PNG"),
    "moves.webp": (lambda: animation("WEBP"), "an animation: save one picture of it as PNG"),
    "moves.png": (lambda: animation("PNG"), "an animation: save one picture of it as PNG"),
    "notes.txt": (lambda: b"my holiday", "not a JPEG, PNG or WebP picture"),
    "text named.jpg": (lambda: b"my holiday", "not a JPEG, PNG or WebP picture"),
    "drawing.svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a JPEG, PNG or WebP picture"),
    "old.bmp": (lambda: encoded(scene(), "BMP"), "not a JPEG, PNG or WebP picture"),
    "scan.tiff": (lambda: encoded(scene(), "TIFF"), "not a JPEG, PNG or WebP picture"),
    "sound.webp": (lambda: b"RIFF\x24\0\0\0WAVEfmt ", "not a JPEG, PNG or WebP picture"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_named_with_its_reason(folder, name):
    make, reason = BAD[name]
    (folder / name).write_bytes(make())
    found = load_photos(folder)
    assert found.names == ("good.jpg",) and is_scene(found.pictures[0]) and found.skipped == ((name, reason),)
    assert found.report() == f"1 picture; skipped 1: {name} ({reason})"


def test_the_limits_stand_where_they_are_said_to(tmp_path):
    Image.new("RGB", (64, 64), LEFT).save(tmp_path / "just enough.png")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "just not too large.png")
    assert load_photos(tmp_path).skipped == ()


def test_strange_things_among_the_files(folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "inner.jpg").write_bytes((folder / "good.jpg").read_bytes())
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")  # whoever opens it waits for ever
    for hidden in (".DS_Store", "Thumbs.db", "desktop.ini", "._good.jpg"):
        (folder / hidden).write_bytes(b"of the system")
    found = load_photos(folder)
    assert found.names == ("good.jpg",)
    assert dict(found.skipped) == {
        "sub": "a folder: only the files beside it are read",
        "gone.jpg": "not a file, or a link to one that is gone",
        "pipe.jpg": "not a file, or a link to one that is gone",
    }


def test_the_same_bytes_count_once(folder):
    for name in ("good (1).jpg", "zzz.png"):
        (folder / name).write_bytes((folder / "good.jpg").read_bytes())
    assert load_photos(folder).names == ("good (1).jpg",)
    assert reasons(folder) == {
        "good.jpg": "the same picture as good (1).jpg",
        "zzz.png": "the same picture as good (1).jpg",
    }


def test_a_large_file_is_not_even_read(folder):
    with open(folder / "film.jpg", "wb") as file:
        file.truncate(3_000_000_000)  # takes no room on the disk
    assert reasons(folder) == {"film.jpg": "a file of 3,000 MB: at most 100 are read"}


def test_a_file_that_may_not_be_read(folder, monkeypatch):
    (folder / "locked.jpg").write_bytes(b"x")
    read = photos.Path.read_bytes

    def refuse(path):
        if path.name == "locked.jpg":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(photos.Path, "read_bytes", refuse)
    assert reasons(folder) == {"locked.jpg": "cannot be read: Permission denied"}


def test_names_that_would_break_a_line(folder):
    (folder / "two\nlines\x1b[31m.txt").write_bytes(b"x")
    (folder / os.fsdecode(b"latin-\xe9.txt")).write_bytes(b"y")
    line = load_photos(folder).report()
    assert line.isprintable() and line.encode("utf-8")
    assert line.startswith("1 picture; skipped 2: latin-?.txt (not a") and "two?lines?[31m.txt (" in line


def test_a_long_report_is_cut(folder):
    for i in range(25):
        (folder / f"{i:02}.txt").write_text(f"note {i}", encoding="utf-8")
    line = load_photos(folder).report()
    assert line.startswith("1 picture; skipped 25: 00.txt (") and line.endswith("), and 15 more")


def test_order_and_bytes_are_the_same_each_time(tmp_path):
    for name, shade in (("b.png", 50), ("a.png", 100), ("c.png", 150)):
        Image.new("RGB", (80, 100), (shade,) * 3).save(tmp_path / name)
    first, second = load_photos(tmp_path), load_photos(str(tmp_path))
    assert first.names == ("a.png", "b.png", "c.png") and first.report() == "3 pictures"
    assert first.pictures[:, 0, 0, 0].tolist() == [100, 50, 150]
    assert (first.pictures == second.pictures).all()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "nowhere", ("there is no folder", "nowhere", "name the one that holds your photos")),
        (lambda p: p / "good.jpg", ("good.jpg is a file", "name the folder")),
        (lambda p: (p / "new").mkdir() or p / "new", ("is empty", "put about a dozen JPEG, PNG or WebP photos")),
        (lambda p: None, ("by its path", "not None")),
        (lambda p: 3, ("by its path", "not 3")),
        (lambda p: "", ("by its path", "not ''")),
        (lambda p: " ", ("by its path",)),
        (lambda p: ["a.jpg"], ("by its path", "['a.jpg']")),
        (lambda p: "zero\0byte", ("there is no folder", "zero?byte")),
        (lambda p: "x" * 5000, ("there is no folder",)),
        (lambda p: "~nobody-of-that-name/photos", ("there is no folder ~nobody",)),
    ],
)
def test_a_wrong_folder_is_one_sentence(folder, make, words):
    with pytest.raises(InputError) as error:
        load_photos(make(folder))
    message = str(error.value)
    assert all(word in message for word in words) and "\n" not in message, message


@pytest.mark.parametrize("size", [0, 15, 257, -64, 64.0, "64", None, True])
def test_a_wrong_size(folder, size):
    with pytest.raises(InputError, match="size must be a whole number from 16 to 256"):
        load_photos(folder, size)


def test_only_hidden_files_are_an_empty_folder(tmp_path):
    (tmp_path / ".DS_Store").write_bytes(b"x")
    with pytest.raises(InputError, match="is empty"):
        load_photos(tmp_path)


def test_no_usable_picture_names_the_reasons(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x")
    (tmp_path / "b.heic").write_bytes(heic(b"heic"))
    with pytest.raises(InputError) as error:
        load_photos(tmp_path)
    assert str(error.value).endswith(
        "can be used: a.txt (not a JPEG, PNG or WebP picture), b.heic (HEIC: save it as JPEG)"
    )


def test_a_whole_collection_is_refused(tmp_path):
    for i in range(501):
        (tmp_path / f"{i}.txt").touch()
    with pytest.raises(InputError, match="holds 501 files: copy the dozen"):
        load_photos(tmp_path)


def test_a_folder_that_may_not_be_listed(folder, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(photos.Path, "iterdir", refuse)
    with pytest.raises(InputError, match="cannot be read: Permission denied"):
        load_photos(folder)


def test_random_damage_never_gets_through(tmp_path):
    """Bytes altered at random: a picture or a reason each time, and no other error."""
    rng = np.random.default_rng(0)
    whole = [
        encoded(noise(), "JPEG"),
        encoded(noise(), "PNG"),
        encoded(noise(), "WEBP"),
        turned(6, Image.Transpose.ROTATE_90),
    ]
    (tmp_path / "good.png").write_bytes(encoded(scene(), "PNG"))
    for i in range(120):
        content = bytearray(whole[i % 4])
        for place in rng.integers(0, min(len(content), 400), 6):
            content[place] = rng.integers(256)
        (tmp_path / f"damaged {i}").write_bytes(bytes(content))
    found = load_photos(tmp_path, size=16)
    assert len(found) + len(found.skipped) == 121 and len(found.skipped) > 20
    assert all(reason and reason.isprintable() for _, reason in found.skipped)
