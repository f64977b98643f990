"""The page to draw on: what its fields ask for is what is drawn; and a prompt becomes a picture in a real browser.

The browser is Chromium with its driver (Debian: `apt-get install chromium chromium-driver`); see tests/needs.py.
"""

import io
import json
import signal
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image

from course_utils import checkpoints, cli
from course_utils.app import paint
from course_utils.app.generate import draw_pictures
from course_utils.app.redraw import redraw
from course_utils.app.space import write_space
from course_utils.errors import CheckpointError, InputError
from course_utils.systems.registry import systems_at_hand
from tests.conftest import ROOT
from tests.needs import PATIENCE, start_chromium, text_of, wait

QUICK = {"steps": 3, "count": 1, "seed": 1}


def editor(picture, *strokes):
    """The editor of the page with a picture in it and rectangles (left, top, right, bottom) brushed over it."""
    layers = []
    for box in strokes:
        layer = Image.new("RGBA", (256, 256))
        layer.paste((213, 94, 0, 255), box)
        layers.append(layer)
    return {"background": picture, "layers": layers, "composite": None}


@pytest.fixture(scope="module")
def panda():
    """A picture to draw from, as the page shows it."""
    return Image.fromarray(paint.paint("panda, night sky", steps=5, count=1)[0])


# ------------------------------------------------------------------ what the fields ask for
def test_the_page_draws_what_the_library_draws():
    options = {"system": "stable-diffusion", "negative": "cat", "guidance": 3.0, "steps": 3, "count": 2, "seed": 7}
    page = paint.paint("粉色的蝴蝶", **options)
    assert page.shape == (2, 256, 256, 3) and page.dtype == np.uint8
    assert (page[:, ::4, ::4] == draw_pictures(prompt="粉色的蝴蝶", **options)).all()
    assert (page[:, 1::4, 3::4] == page[:, ::4, ::4]).all(), "enlarged, not smoothed"


def test_a_lora_with_its_strength():
    none, off, whole, twice = (
        paint.paint("XP7 car", lora=lora, lora_strength=strength, **QUICK).astype(int)
        for lora, strength in (([], 1), (["xp7"], 0), (["xp7"], 1), (["xp7"], 2))
    )
    by_name = draw_pictures(prompt="XP7 car", lora="xp7", **QUICK)
    assert abs(off - none).max() <= 1 and abs(whole[:, ::4, ::4] - by_name).max() <= 1
    assert abs(twice - none).mean() > abs(whole - none).mean() > 1


def test_what_lies_in_the_editor(panda):
    assert paint.read_editor(None) == paint.read_editor(editor(None)) == (None, None)
    assert paint.read_editor(editor(Image.new("RGBA", (256, 256)))) == (None, None), "an empty canvas"
    picture, mask = paint.read_editor(editor(panda.convert("RGBA")))
    assert (picture == np.asarray(panda)[::4, ::4]).all() and mask is None
    _, mask = paint.read_editor(editor(panda, (64, 0, 128, 256), (0, 0, 4, 4)))
    assert mask[:, 16:32].all() and mask[0, 0] and mask.sum() == 64 * 16 + 1
    photo = Image.new("RGBA", (600, 300), (0, 0, 255, 255))
    photo.paste((0, 0, 0, 0), (0, 0, 300, 300))
    picture, _ = paint.read_editor(editor(photo))
    assert picture.shape == (64, 64, 3) and (picture[5, 5] == 255).all() and (picture[5, 60] == (0, 0, 255)).all()


def test_a_picture_changes_as_far_as_the_strength_says(panda):
    given = np.asarray(panda)[::4, ::4].astype(int)
    near, far = (
        paint.paint("red car, beach", editor=editor(panda), strength=strength, **{**QUICK, "steps": 10})[:, ::4, ::4]
        for strength in (0.2, 1.0)
    )
    assert abs(far - given).mean() > 2 * abs(near - given).mean() > 0


@pytest.mark.parametrize("lora", [None, ["xp7"]])
def test_only_what_is_brushed_over_is_drawn_anew(panda, lora):
    given = np.asarray(panda)[::4, ::4]
    drawn = paint.paint("red car", editor=editor(panda, (0, 0, 128, 256)), lora=lora, **{**QUICK, "count": 2})
    assert drawn.shape == (2, 256, 256, 3)
    assert (drawn[:, ::4, ::4][:, :, 32:] == given[:, 32:]).all()
    assert (drawn[:, ::4, ::4][:, :, :32] != given[:, :32]).mean() > 0.5


def test_a_system_that_cannot_change_pictures_draws_from_noise(panda):
    options = {"system": "text-pixel", "steps": 2, "count": 1}
    assert (paint.paint("panda", editor=editor(panda), **options) == paint.paint("panda", **options)).all()
    with pytest.raises(InputError, match="unknown system that changes a picture 'text-pixel'"):
        redraw(np.zeros((64, 64, 3), np.uint8), "panda", system="text-pixel")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"prompt": "a" * 1001}, "at most 1000 are read"),
        ({"system": "dalle9"}, "unknown system 'dalle9'"),
        ({"system": "noise-predictor"}, "noise-predictor takes no prompt, .* `course draw --system noise-predictor`"),
        ({"seed": None}, "seed must be a whole number"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"steps": 0}, "steps must be a whole number from 1"),
        ({"guidance": 21}, "guidance must be a number from 0 to 20"),
        ({"count": 17}, "number of pictures must be a whole number from 1 to 16"),
        ({"lora": ["xp7"], "lora_strength": 3}, "LoRA's strength must be a number from 0 to 2"),
        ({"lora": ["xp8"]}, "there is no xp8"),
        ({"lora": ["xp7"], "system": "text-pixel"}, "a LoRA changes stable-diffusion and nothing else"),
        ({"editor": editor(None, (0, 0, 9, 9))}, "there is no picture beneath it"),
        ({"editor": editor(Image.new("RGB", (64, 64))), "strength": 0}, "strength must be a number above 0"),
    ],
)
def test_what_is_wrong_gets_one_sentence(wrong, words):
    with pytest.raises((InputError, CheckpointError), match=words) as raised:
        paint.paint(**{"prompt": "panda", **QUICK, **wrong})
    assert "\n" not in str(raised.value)


def test_what_the_system_never_saw_is_said_first():
    assert 'was never shown "dragon"' in paint.said_first("text-pixel", "a photo of a dragon")
    assert paint.said_first("text-pixel", "panda") == paint.said_first("stable-diffusion", "panda") == ""
    assert paint.said_first("stable-diffusion", "XP7 car", ["xp7"]) == "" != paint.said_first("stable-diffusion", "XP7")


def test_only_systems_that_read_and_have_checkpoints_are_offered(tmp_path):
    offered = systems_at_hand()
    assert offered[0] == "stable-diffusion" and "text-pixel" in offered and "noise-predictor" not in offered

    def bring(name):
        for ending in ("safetensors", "json"):
            (tmp_path / f"{name}.{ending}").symlink_to(checkpoints.CHECKPOINT_DIR / f"{name}.{ending}")

    bring("noise-predictor")
    with pytest.raises(CheckpointError, match="no checkpoint 'stable-diffusion'"):
        systems_at_hand(tmp_path)
    bring("text-pixel")
    assert systems_at_hand(tmp_path) == ["text-pixel"]


def test_what_is_saved_is_named_by_its_prompt_and_tells_its_options(tmp_path):
    pictures = np.zeros((2, 256, 256, 3), np.uint8)
    asked = {"prompt": "../粉色的 <b>", "system": "text-pixel", "seed": 3, "steps": 20, "editor": None}
    path = paint.save_sheet(pictures, asked, tmp_path)
    assert path == tmp_path / "粉色的 b 3.png"
    with Image.open(path) as saved:
        assert saved.text["prompt"] == "../粉色的 <b>" and saved.text["steps"] == "20" and "editor" not in saved.text


# ------------------------------------------------------------------ the command, and the folder for a Space
def test_course_app_with_bad_input(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("years of work")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, words in (
            (("--port", "80"), "port must be a whole number from 1024 to 65535"),
            (("--port", port, "--no-browser"), "that port is taken"),
            (("--from", str(tmp_path)), "there is no checkpoint"),
            (("--space", str(tmp_path)), "holds something: name a new folder"),
        ):
            assert cli.main(["app", *arguments]) == 2
            said = capsys.readouterr().err.splitlines()
            assert len(said) == 1 and words in said[0], said
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_course_draw_takes_the_strength_of_a_lora(tmp_path, capsys):
    def drawn(name, *arguments):
        command = ["draw", "XP7 car", "--steps", "2", "--count", "1", "--out", str(tmp_path / name)]
        assert cli.main([*command, *arguments]) == 0
        return np.asarray(Image.open(tmp_path / name)).astype(int)

    plain = drawn("plain.png", "--lora-strength", "2")
    assert "--lora-strength changed nothing: there is no --lora" in capsys.readouterr().err
    assert abs(drawn("off.png", "--lora", "xp7", "--lora-strength", "0") - plain).max() <= 1
    assert abs(drawn("on.png", "--lora", "xp7", "--lora-strength", "1.5") - plain).mean() > 1


SPACE = """
import course_utils, gradio
from course_utils.app import web
blocks = web.page()
print(course_utils.__file__, [c["props"].get("elem_id") for c in blocks.config["components"]].count("prompt"))
print(web.paint.paint("panda", steps=1, count=1).shape)
"""


def test_a_space_has_all_it_needs(tmp_path):
    space = write_space(tmp_path / "space")
    head = (space / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert "sdk: gradio" in head and "app_file: app.py" in head
    needs = (space / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("torch>=") for line in needs) and not any("gradio" in line for line in needs)
    assert not list(space.rglob("__pycache__")) and compile((space / "app.py").read_text(), "app.py", "exec")
    alone = subprocess.run([sys.executable, "-c", SPACE], cwd=space, capture_output=True, text=True)
    assert alone.stdout == f"{space / 'course_utils' / '__init__.py'} 1\n(1, 256, 256, 3)\n", alone.stderr
    with pytest.raises(InputError, match="holds something"):
        write_space(space)


# ------------------------------------------------------------------ in a browser
@pytest.fixture(scope="module")
def address():
    """Where `course app` serves the page; Ctrl-C ends it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "course_utils.cli", "app", "--no-browser", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            first = server.stdout.readline()
            assert f"http://127.0.0.1:{port}" in first
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=PATIENCE) == 0


@pytest.fixture
def browser(tmp_path_factory):
    """A Chromium without a history, a network or a window, which remembers what it asked for."""
    driver = start_chromium(tmp_path_factory.mktemp("chromium"), log=True)
    yield driver
    driver.quit()


def ask(browser, prompt):
    """Write a prompt in place of the one that stands there, and press Enter."""
    from selenium.webdriver import Keys

    field = wait(browser, lambda b: b.find_element("css selector", "#prompt textarea, #prompt input"))
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(prompt or Keys.DELETE, Keys.ENTER)


def shown(browser):
    """The addresses of the pictures in the gallery, once they are loaded."""
    script = "return [...document.querySelectorAll('#pictures img')].filter(i => i.naturalWidth == 256).map(i => i.src)"
    return browser.execute_script(script)


def drawn_anew(browser, before):
    """The addresses of four pictures that were not shown before, once they are there."""
    return wait(browser, lambda b: (found := shown(b)) and len(set(found) - set(before)) == 4 and found)


def opened(url):
    """A picture that the page shows."""
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        return Image.open(io.BytesIO(answer.read())).convert("RGB")


def requested(browser):
    """All addresses that the page asked for, here and elsewhere."""
    events = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    asked = (e["params"] for e in events if e["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"))
    return {params.get("url") or params["request"]["url"] for params in asked}


def test_from_prompt_to_picture(browser, address, tmp_path):
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    browser.get(address)
    ask(browser, "panda, night sky")
    urls = wait(browser, lambda b: (found := shown(b)) and len(found) == 4 and found)
    drawn = draw_pictures(prompt="panda, night sky", count=4).astype(int)
    for url, picture in zip(urls, drawn):
        assert abs(np.asarray(opened(url))[::4, ::4].astype(int) - picture).max() <= 2  # threads round differently
    assert text_of(browser, "#note") == ""
    browser.find_element("css selector", "#save").click()
    with Image.open(wait(browser, lambda _: next(tmp_path.glob("panda night sky 0.png"), None))) as saved:
        assert saved.text["prompt"] == "panda, night sky" and saved.width > 512
    ask(browser, "a photo of a dragon")
    wait(browser, lambda b: 'was never shown "dragon"' in text_of(b, "#note"))
    wait(browser, lambda b: len(set(shown(b)) - set(urls)) == 4)
    ask(browser, "")
    wait(browser, lambda b: "the prompt is empty: write what to draw" in text_of(b, "#note"))
    assert len(shown(browser)) == 4, "the pictures stay"
    asked = requested(browser)
    assert len(asked) > 20 and {u for u in asked if not u.startswith((address, "data:", "blob:", "chrome:"))} == set()


def test_a_stroke_of_the_brush_is_drawn_anew_and_nothing_else(browser, address):
    from selenium.webdriver import ActionChains

    browser.set_window_size(1400, 1600)
    browser.get(address)
    ask(browser, "panda, white")
    before = drawn_anew(browser, [])
    given = np.asarray(opened(before[0]))[::4, ::4]
    again = browser.find_element("css selector", "#again")
    wait(browser, lambda _: again.is_enabled())
    again.click()
    canvas = wait(
        browser, lambda b: next((c for c in b.find_elements("css selector", "#editor canvas") if c.size), None)
    )
    stroke = ActionChains(browser).move_to_element_with_offset(canvas, -64, -100).click_and_hold()
    for _ in range(20):
        stroke.move_by_offset(0, 10)
    stroke.release().perform()
    ask(browser, "red car, white")
    for url in drawn_anew(browser, before):
        changed = (np.asarray(opened(url))[::4, ::4] != given).any(axis=-1)
        assert not changed[:, 32:].any(), "right of the stroke all is as it was"
        assert changed[:, 12:20].mean() > 0.3
