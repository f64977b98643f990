"""`course search`: the nearest pictures to a prompt, on a page; what cannot be asked for gets a sentence."""

import pytest
import torch
from PIL import Image

from course_utils import checkpoints, cli
from course_utils.app import search
from course_utils.data import load_emoji
from course_utils.datasets import latent_cache
from course_utils.errors import InputError
from course_utils.systems.clip import embed_texts, make_clip


@pytest.fixture(scope="module")
def emoji():
    """Every hundredth picture of the course."""
    whole = load_emoji(64, split="all")
    return whole.select(list(range(0, len(whole), 100)))


@pytest.fixture
def folder(tmp_path, monkeypatch, emoji):
    """A folder with a CLIP of random weights; the gallery is small, and is cached beside it."""
    monkeypatch.setattr("course_utils.data.load_emoji", lambda size, split: emoji)
    monkeypatch.setattr(latent_cache, "folders", lambda: iter([tmp_path / "cache"]))
    torch.manual_seed(0)
    checkpoints.save("clip", make_clip(), {}, folder=tmp_path)
    return tmp_path


def test_the_nearest_come_first_and_the_gallery_is_embedded_once(folder, monkeypatch, emoji):
    found, index, cosines = search.find_pictures("pink butterfly", 5, folder)
    assert len(found) == len(emoji) and len(set(index)) == 5 and cosines == sorted(cosines, reverse=True)
    clip = checkpoints.load("clip", make_clip(), None, folder)
    with torch.no_grad():
        expected = search.embed_gallery(clip, emoji) @ embed_texts(clip, ["pink butterfly"])[0]
    assert cosines == pytest.approx(expected.topk(5).values.tolist(), abs=1e-5)

    def embed_again(*args):
        raise AssertionError("the vectors were kept")

    monkeypatch.setattr("course_utils.systems.clip.embed_images", embed_again)
    assert search.find_pictures("pink butterfly", 5, folder)[1] == index


def test_another_checkpoint_gets_vectors_of_its_own(folder, emoji):
    first = search.embed_gallery(checkpoints.load("clip", make_clip(), None, folder), emoji)
    torch.manual_seed(1)
    assert not torch.allclose(search.embed_gallery(make_clip().eval(), emoji), first)


@pytest.mark.parametrize(("prompt", "ending"), [("a red car", "png"), ("粉色的蝴蝶", "jpg"), ("long " * 60, "webp")])
def test_the_command_writes_a_page(folder, capsys, prompt, ending):
    page = folder / f"page.{ending}"
    assert cli.main(["search", prompt, "--count", "7", "--out", str(page), "--from", str(folder)]) == 0
    with Image.open(page) as sheet:
        assert min(sheet.size) > 200 and len(sheet.convert("RGB").resize((40, 40)).getcolors(1600)) > 20
    assert "7 of 57 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["", "--out", "a.png"], "prompt"),
        (["cat", "--count", "0"], "count"),
        (["cat", "--count", "65"], "count"),
        (["cat", "--out", "page.txt"], "does not end"),
        (["cat", "--from", "nowhere"], "clip"),
        (["red", "car"], "quotes"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(folder, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(folder)
    assert cli.main(["search", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and words in told


def test_labels_are_in_the_language_of_the_prompt(emoji):
    index, cosines = [0, 1], [0.5, 0.4]
    for prompt, key in (("cat", "name_en"), ("猫", "name_zh")):
        texts = [text.get_text() for ax in search.draw_sheet(prompt, emoji, index, cosines).axes for text in ax.texts]
        assert any(emoji.meta[0][key][:4] in text.replace("\n", " ") for text in texts)


def test_a_prompt_that_is_no_text_is_refused():
    with pytest.raises(InputError):
        search.find_pictures(None)
