"""Diagrams of whole systems say what the networks are, and lay every condition out."""

from course_utils.figures import architecture, plotting
from tests.test_plotting import clean, png, words  # noqa: F401 - clean: the course's style, and no figure left open
from tests.test_stable_diffusion import tiny_system


def test_a_system_is_drawn_as_it_is():
    figure = architecture.system_diagram(tiny_system(), size=32)
    text = words(figure)
    assert png(figure).startswith(b"\x89PNG")
    for shape in ("(B, 32)", "(B, 32, 32)", "(B, 4, 8, 8)", "picture (B, 3, 32, 32)", "0.7, decoder", "16 ch", "32 ch"):
        assert shape in text, shape
    for real in ("(B, 77, 768)", "(B, 4, 64, 64)", "(B, 3, 512, 512)", "0.18215"):
        assert real in text, real
    assert "folded into one vector" in text, "the second path of the text"


def test_arrows_reach_the_blocks_with_cross_attention_only():
    system = tiny_system()
    _, ax = architecture.canvas(8, 6)
    attended = architecture._unet(ax, system.unet, 8, 4.0)
    assert len(attended) == 3, "down 1, middle, up 0: the small maps"


def test_conditions_show_what_is_concatenated_or_added():
    doors = {
        "text": {"tokens": "32 tokens"},
        "mask": {"beside": {"mask": 1, "kept": 4}},
        "start": {"start": "noised z"},
        "ControlNet": {"added": "copy"},
    }
    figure = architecture.conditions_diagram(doors)
    text = words(figure)
    assert all(name in text for name in doors)
    assert "mask \u00b7 1" in text and "kept \u00b7 4" in text and "noised z \u00b7 4" in text and "copy" in text
    assert text.count("U-Net") >= 4 and figure.get_figwidth() == plotting.WIDTH
