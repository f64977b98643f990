"""Widgets stand on pure functions: without a front-end the figure is there, with one it is redrawn in place."""

import builtins
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from course_utils.figures import plotting, widgets
from tools import notebooks


def draw(power=1, kind="a", on=True):
    return plotting.plot_lines([0, 1], {kind: [0, power * on]})


def draw_prompt(prompt, system, steps, guidance, seed):
    if not prompt:
        raise ValueError("Write a prompt first, in English or Chinese.")
    return plotting.plot_lines([0, 1], {system: [seed, steps]}, title=prompt)


@pytest.fixture
def front_end(monkeypatch):
    """Pretend that a person watches; collects what is displayed and what replaces it."""
    plotting.use_course_style()
    seen = SimpleNamespace(shown=[], updates=[])
    handle = SimpleNamespace(update=lambda thing: seen.updates.append(thing))
    monkeypatch.setattr(widgets, "has_front_end", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda thing, **_: seen.shown.append(thing) or handle)
    yield seen
    plt.close("all")


def test_start_values():
    assert [widgets.initial_value(c) for c in ((1, 3), (0.0, 1.0), (0, 100, 10), ["a", "b"], {"x": 7}, True)] == [
        2,
        0.5,
        50,
        "a",
        7,
        True,
    ]


def test_without_a_front_end_the_figure_and_one_line(capsys):
    assert not widgets.has_front_end()
    widgets.explore(draw, power=(1, 3), kind=["a", "b"], on=True)
    out = capsys.readouterr().out
    assert "JupyterLab" in out.split("\n")[0]
    assert "Figure" in out.split("\n")[1]
    widgets.prompt_box(draw_prompt)
    assert not plt.get_fignums()  # nothing left to be shown twice


def test_explore_redraws_in_place(front_end):
    widgets.explore(draw, power=(1, 3), kind=["a", "b"], on=True)
    box, figure = front_end.shown
    power, kind, on, message = box.children
    assert (power.value, kind.value, on.value, power.continuous_update) == (2, "a", True, False)
    assert figure.axes
    power.value = 3
    assert front_end.updates[-1].axes[0].lines[0].get_ydata()[-1] == 3
    assert message.value == ""


def test_an_error_becomes_one_sentence(front_end):
    widgets.explore(lambda n: draw(n) if n < 3 else 1 / 0, n=(1, 3))
    slider, message = front_end.shown[0].children
    slider.value = 3
    assert "division by zero" in message.value
    assert not front_end.updates
    slider.value = 1
    assert message.value == ""


def test_prompt_box_draws_on_click_and_greys_out_what_is_not_taken(front_end):
    widgets.prompt_box(draw_prompt, {"noise-predictor": (), "stable-diffusion": ("prompt", "guidance")})
    prompt, system, why, steps, guidance, seed, buttons, message = front_end.shown[0].children
    button = buttons.children[0]
    assert prompt.disabled and guidance.disabled and "no prompt and no guidance" in why.value
    system.value = "stable-diffusion"
    assert not prompt.disabled and not guidance.disabled and why.value == ""
    prompt.value, seed.value = "粉色的蝴蝶", 7
    assert not front_end.updates  # only the button draws
    button.click()
    assert front_end.updates[-1].axes[0].get_title(loc="left") == "粉色的蝴蝶"
    prompt.value = ""
    button.click()
    assert "Write a prompt first" in message.value


def test_a_prompt_box_with_sizes_hands_the_chosen_one_over(front_end):
    asked = []

    def draw_size(prompt, system, steps, guidance, seed, size):
        asked.append(size)
        return plotting.plot_lines([0, 1], {system: [seed, steps]}, title=prompt)

    widgets.prompt_box(draw_size, sizes={"its own": 0, "256 x 256": 256})
    *_, seed, size, buttons, message = front_end.shown[0].children
    assert (seed.description, size.description, size.label) == ("seed", "size", "its own")
    size.value = 256
    buttons.children[0].click()
    assert asked == [0, 256] and message.value == ""


def test_the_prompt_box_says_what_was_never_shown_before_it_draws(front_end):
    from course_utils.systems.reading import read_prompt

    said_first = []

    def draw_plain(prompt, system, steps, guidance, seed):
        text = read_prompt(system, prompt)
        said_first.append(message.value)
        return plotting.plot_lines([0, 1], {system: [seed, steps]}, title=text)

    message = SimpleNamespace(value="")
    widgets.prompt_box(draw_plain, {"text-pixel": ("prompt", "guidance")}, prompt="butterfly")
    prompt, *_, buttons, message = front_end.shown[0].children
    button = buttons.children[0]
    near = "the nearest it knows: crocodile, turtle"
    prompt.value = "a photo of a dragon"
    button.click()
    assert message.value == f"text-pixel was never shown &quot;dragon&quot;; {near}"
    assert said_first[-1] == message.value and front_end.updates[-1].axes[0].get_title(loc="left") == "dragon"
    prompt.value = "pandas"
    button.click()
    assert message.value == "" and front_end.updates[-1].axes[0].get_title(loc="left") == "panda"


def enter(text):
    """What the browser tells when Enter is pressed in a text field."""
    text._handle_msg({"content": {"data": {"method": "custom", "content": {"event": "submit"}}}, "buffers": []})


def test_enter_draws(front_end):
    widgets.prompt_box(draw_prompt)
    prompt, *_, message = front_end.shown[0].children
    prompt.value = "panda"
    assert not front_end.updates
    enter(prompt)
    assert front_end.updates[-1].axes[0].get_title(loc="left") == "panda"
    prompt.value = ""
    enter(prompt)
    assert "Write a prompt first" in message.value and len(front_end.updates) == 1


def test_save_writes_the_figure_that_is_shown(front_end, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    widgets.prompt_box(draw_prompt, prompt="panda")
    prompt, *_, seed, buttons, message = front_end.shown[0].children
    draw, save = buttons.children
    save.click()
    first = Path("drawings", "panda, noise-predictor, seed 0.png")
    assert message.value == f"saved: {first}" and first.is_file()
    prompt.value, seed.value = "粉色的蝴蝶/../<b>", 7
    save.click()
    assert [path.name for path in Path("drawings").iterdir()] == [first.name], "what is shown is still the panda"
    draw.click()
    save.click()
    with Image.open(Path("drawings", "粉色的蝴蝶 b, noise-predictor, seed 7.png")) as picture:
        assert picture.format == "PNG" and min(picture.size) > 300
    Path("file").write_text("")
    monkeypatch.setattr(widgets, "SAVED", "file")
    save.click()
    assert message.value.startswith("<b>") and "exists" in message.value


class World(dict):
    """The names that a cell meets: those it makes itself, and a stand-in for any other."""

    def __missing__(self, name):
        if hasattr(builtins, name):
            raise KeyError(name)
        return self.setdefault(name, MagicMock())


def prompt_box_cells():
    """(notebook, source) of every cell that opens a prompt box."""
    cells = [(name, cell) for name in notebooks.kept_names() for cell in notebooks.read_text(name).cells]
    return [(name, cell.source) for name, cell in cells if cell.cell_type == "code" and "prompt_box(" in cell.source]


@pytest.mark.parametrize(("name", "source"), prompt_box_cells())
def test_the_title_of_every_prompt_box_names_the_prompt(name, source, monkeypatch):
    box = MagicMock()
    monkeypatch.setattr(widgets, "prompt_box", box)
    exec(source, world := World(prompt_box=box))
    drawn, systems = box.call_args.args
    size = {"size": 0} if "sizes" in box.call_args.kwargs else {}
    for system, reads in systems.items():
        drawn("panda, beach", system, 20, 2.0, 7, **size)
        title = world["plotting"].show_pictures.call_args.kwargs["title"]
        assert ("panda, beach" in title) == ("prompt" in reads), f"{name}: {title}"


def states(count):
    for i in range(count):
        yield SimpleNamespace(step=i + 1, loss=0.5, pictures_per_s=1234.0, seconds=i + 1, seconds_left=count - i - 1)


def test_training_monitor_passes_states_through_and_prints_little(capsys):
    assert [s.step for s in widgets.training_monitor(states(500))] == list(range(1, 501))
    lines = capsys.readouterr().out.strip().split("\n")
    assert len(lines) <= 11
    assert "1,234 pictures/s" in lines[0]
    assert "100%" in lines[-1]


def test_progress_line_survives_a_start_at_zero():
    line = widgets.progress_line(SimpleNamespace(step=0, loss=1.0, pictures_per_s=0.0, seconds=0, seconds_left=90))
    assert "0%" in line
    assert "1:30 left" in line
