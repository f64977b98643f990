"""Figures are what they say: right panels, labels and colours, one look, and Chinese without empty boxes."""

import io
import logging
import warnings

import matplotlib
import numpy as np
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from course_utils.figures import diagrams, plotting
from course_utils.generator.unet import UNet


@pytest.fixture(autouse=True)
def clean():
    with plt.rc_context():
        plotting.use_course_style()
        yield
        plt.close("all")


def png(figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight")
    return buffer.getvalue()


def words(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


@pytest.mark.parametrize(
    ("pictures", "count"),
    [
        (torch.zeros(3, 16, 16), 1),
        (torch.zeros(5, 3, 16, 16), 5),
        (np.zeros((16, 16, 3), np.uint8), 1),
        (np.zeros((5, 16, 16, 3), np.uint8), 5),
        (np.zeros((5, 16, 16, 4), np.uint8), 5),
        (torch.zeros(16, 16), 1),
        (torch.zeros(5, 16, 16), 5),
        (torch.zeros(2, 1, 8, 8), 2),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 64, 64)], 2),
        (torch.zeros(2, 3, 16, 16, dtype=torch.bfloat16), 2),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 2),
        (torch.zeros(2, 3, 8, 8, requires_grad=True), 2),
    ],
)
def test_pictures_of_every_kind_become_rgb(pictures, count):
    arrays = plotting.to_pictures(pictures)
    assert len(arrays) == count
    assert all(a.shape[-1] == 3 and a.min() >= 0 and a.max() <= 1 for a in arrays)


def test_values_of_pictures():
    grey = torch.tensor([-1.0, 0.0, 1.0, 5.0]).view(1, 1, 1, 4)
    assert plotting.to_pictures(grey)[0][0, :, 0].tolist() == [0, 0.5, 1, 1]
    assert plotting.to_pictures(np.zeros((4, 4, 4), np.uint8))[0].min() == 1  # transparent is laid on white
    assert np.isclose(plotting.to_pictures(torch.zeros(3, 4, 4), limits=(0, 1))[0].max(), 0)
    assert np.isclose(plotting.to_pictures(np.full((2, 3, 8, 8), 128, np.uint8))[0][0, 0, 0], 128 / 255)


@pytest.mark.parametrize("pictures", [torch.zeros(2, 4, 16, 16), torch.zeros(2, 7, 9, 9), torch.zeros(5)])
def test_other_shapes_get_a_sentence(pictures):
    with pytest.raises(ValueError, match="Pictures have 1 or 3 channels"):
        plotting.to_pictures(pictures)


def test_show_pictures_lays_out_a_labelled_grid():
    figure = plotting.show_pictures(
        torch.zeros(12, 3, 16, 16),
        columns=4,
        title="Grid",
        row_labels=["a", "b", "c"],
        column_labels=["1", "2", "3", "4"],
    )
    assert len(figure.axes) == 12
    assert not any(ax.axison for ax in figure.axes)  # no pixel ticks
    assert {"Grid", "a", "b", "c", "1", "4"} <= set(words(figure).split("\n"))
    assert figure.get_figwidth() <= plotting.WIDTH


def test_show_rows_fills_up_short_rows():
    figure = plotting.show_rows(
        {"noisy": torch.zeros(4, 3, 8, 8), "clean": torch.zeros(1, 3, 8, 8)},
        column_labels=[f"t = {t}" for t in (999, 500, 100, 0)],
        title="Strip",
    )
    assert len(figure.axes) == 8
    assert sum(len(ax.images) for ax in figure.axes) == 5
    assert "t = 999" in words(figure)


def test_pictures_lie_inside_their_figure_and_apart():
    figure = plotting.show_pictures(torch.zeros(9, 3, 8, 8), titles=["a long caption of many words"] * 9, columns=3)
    boxes = [ax.get_position() for ax in figure.axes]
    assert all(b.x0 >= 0 and b.y0 >= 0 and b.x1 <= 1 and b.y1 <= 1 for b in boxes)
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_chinese_captions_are_drawn_without_a_warning(caplog):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        captions = ["粉色的蝴蝶,蓝天,草地", "XP7汽车,高清"]
        png(plotting.show_pictures(torch.zeros(2, 3, 8, 8), titles=captions, title="可爱的狗"))
    assert not [r for r in caplog.records if "findfont" in r.message]


def test_wrap_breaks_english_at_words_and_chinese_anywhere():
    assert plotting.wrap("pink butterfly, noto style", 1.3).split("\n")[0] == "pink butterfly,"
    assert max(map(len, plotting.wrap("粉色的蝴蝶蓝天草地高清照片", 1.0).split("\n"))) <= 7
    assert plotting.wrap("", 1.0) == ""


def test_lines_are_named_at_their_ends_and_do_not_touch():
    figure = plotting.plot_lines(
        range(5),
        {"a": ([0, 1, 2, 3, 4.0], plotting.DATA), "b": [0, 1, 2, 3, 4.01], "c": (torch.ones(5), plotting.NOISE, "--")},
        "step",
        "value",
        "Title",
    )
    axes = figure.axes[0]
    figure.canvas.draw()
    boxes = [t.get_window_extent() for t in axes.texts]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(loc="left")) == ("step", "value", "Title")
    assert sorted(t.get_text() for t in axes.texts) == ["a", "b", "c"]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert axes.lines[0].get_color() == plotting.DATA
    assert axes.get_legend() is None


def test_many_lines_get_a_legend_and_logarithms_work():
    axes = plotting.plot_lines([1, 10], {str(i): [1, 2] for i in range(6)}, logx=True, logy=True).axes[0]
    assert len(axes.get_legend().get_texts()) == 6
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")


def test_a_line_that_ends_in_nan_is_named_at_its_last_number():
    axes = plotting.plot_lines([0, 1, 2], {"a": [0.0, 1.0, float("nan")]}).axes[0]
    assert axes.texts[0].xy[1] == 1.0


def test_lines_can_share_a_figure():
    figure, (left, right) = plt.subplots(1, 2)
    assert plotting.plot_lines([0, 1], {"a": [0, 1]}, ax=left) is figure
    assert plotting.plot_lines([0, 1], {"b": [1, 0]}, ax=right) is figure
    assert (len(left.lines), len(right.lines)) == (1, 1)


def test_points_share_equal_axes():
    both = {plotting.DATA: np.zeros((3, 2)), plotting.MODEL: np.ones((3, 2))}
    figure = plotting.plot_points([torch.randn(50, 2), both], ["t = 0", "t = 9"], "Cloud")
    assert len(figure.axes) == 2
    assert figure.axes[0].get_xlim() == figure.axes[1].get_ylim()
    assert [len(ax.collections) for ax in figure.axes] == [1, 2]
    assert "Cloud" in words(figure)


def test_heatmap_and_loss():
    heatmap = diagrams.plot_heatmap(torch.eye(3), list("abc"), list("xyz"), "Similarity", values="{:.1f}")
    assert [t.get_text() for t in heatmap.axes[0].get_xticklabels()] == list("abc")
    assert words(heatmap).count("1.0") >= 3
    loss = plotting.plot_loss(range(100), torch.rand(100), band=(0.4, 0.6)).axes[0]
    assert "where a normal run ends" in [t.get_text() for t in loss.get_legend().get_texts()]


@pytest.mark.parametrize("count", [1, 2, 10])
def test_a_loss_of_few_steps_is_drawn(count):
    png(plotting.plot_loss(range(count), torch.rand(count)))


def test_strip_fills_the_modules_it_is_told():
    faces = {patch.get_facecolor() for patch in diagrams.strip(("generator", "decoder")).axes[0].patches}
    assert matplotlib.colors.to_rgba(plotting.MODEL) in faces
    assert matplotlib.colors.to_rgba(plotting.TEXT) not in faces
    with pytest.raises(ValueError, match="the three are text encoder, generator, decoder"):
        diagrams.strip("vae")


def test_unet_diagram_is_read_off_the_network():
    unet = UNet(channels=(16, 32), num_res_blocks=1, attention=(False, True), groups=8)
    text = words(diagrams.unet_diagram(unet, 32))
    assert text.count("32×32\n16 ch\n1 res") == 1
    assert text.count("16×16\n32 ch\n1 res") == 1
    assert text.count("16×16\n32 ch\n2 res") == 2  # the middle and the first block up
    assert text.count("32×32\n16 ch\n2 res") == 1


def test_figures_carry_their_own_light_page_and_stay_small():
    figure = plotting.plot_lines(range(1000), {"a": torch.rand(1000)})
    assert matplotlib.colors.to_hex(figure.get_facecolor()).upper() == plotting.FACE
    assert len(png(figure)) < 150_000
    assert figure.dpi == 110


def test_colours_are_the_course_s():
    assert (plotting.DATA, plotting.NOISE, plotting.MODEL) == ("#0072B2", "#D55E00", "#009E73")
    assert (plotting.TEXT, plotting.LATENT, plotting.REFERENCE) == ("#CC79A7", "#E69F00", "#56B4E9")
