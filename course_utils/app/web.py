"""The page to draw on in a browser, made with Gradio: what `course app` opens, and what a Space shows.

Its fields are named as the arguments of `paint.paint` are. Nothing on it comes from another machine.
"""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import gradio as gr

from course_utils import errors
from course_utils.app import inputs, paint
from course_utils.app.generate import EXAMPLES
from course_utils.app.redraw import INPAINTING
from course_utils.checkpoints import available
from course_utils.datasets.vocabulary import CALLS
from course_utils.systems.registry import SYSTEMS, systems_at_hand

INTRODUCTION = """# Pictures from Noise
Small emoji from an English or a Chinese prompt."""
FROM_PICTURE = """Load a picture, and the prompt draws from it: the strength says how much of it changes. Or brush over
a part of it, and only that part is drawn anew."""
# of the reader's own machine, and for the Chinese of the examples one of ours where there is none
FONTS = ("system-ui", "Segoe UI", "Noto Sans", "Noto Sans SC", "Course Chinese", "sans-serif")
FONT = Path(__file__).resolve().parents[1] / "figures" / "fonts" / "NotoSansSC-course.ttf"
LEGIBLE = {  # Gradio's own small print is pale
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
}
CANVAS = (256, 256)  # pixels to brush on
STYLE = f"""
#pictures .grid-wrap {{ max-height: none; overflow: visible; }}  /* or the gallery scrolls inside itself */
@font-face {{
  font-family: "Course Chinese";
  src: url("/gradio_api/file={quote(FONT.as_posix())}") format("truetype");
  unicode-range: U+3000-303F, U+4E00-9FFF, U+FF00-FFEF;
  font-display: swap;
}}
"""


def launch(folder: str | Path | None = None, device: str | None = None, **options) -> None:
    """Serve the page on this machine, and to it alone, until it is stopped; options: those of Gradio's `launch`.

    folder: of the checkpoints (None: the shipped ones). Raises InputError where no port is free, CheckpointError when
    no system has its checkpoints.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nobody is told
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="gray", font=FONTS, font_mono="monospace").set(**LEGIBLE)
    options |= {"theme": theme, "css": STYLE, "footer_links": []}
    options |= {"ssr_mode": False, "quiet": True, "prevent_thread_lock": True}
    options["_frontend"] = False  # else it gives up where its own page needs more than three seconds on a busy machine
    gr.set_static_paths([FONT])
    blocks = page(folder, device)
    try:
        _, address, _ = blocks.launch(**options)
    except OSError:
        raise errors.InputError("that port is taken: name another with --port, or leave it out") from None
    print(f"Pictures from Noise: {address} (Ctrl-C ends it)", flush=True)
    blocks.block_thread()


def page(folder: str | Path | None = None, device: str | None = None) -> gr.Blocks:
    """The page, which draws with the checkpoints of a folder, on a device."""
    systems, loras = systems_at_hand(folder), [name for name in CALLS if name in available(folder)]
    kept = tempfile.TemporaryDirectory(prefix="course-app-")  # its files go with the page
    with gr.Blocks(title="Pictures from Noise", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column():  # on a phone it stands above the other
                prompt = gr.Textbox(EXAMPLES[0], label="Prompt", elem_id="prompt")
                button = gr.Button("Draw", variant="primary")
                gr.Examples([[text] for text in EXAMPLES], prompt, label="For example")
                note, gallery, chosen = gr.HTML(elem_id="note"), make_gallery(), gr.State(0)
                with gr.Row():
                    save = gr.DownloadButton("Save", interactive=False, elem_id="save")
                    again = gr.Button("Draw from this picture", interactive=False, elem_id="again")
            with gr.Column():
                fields, from_picture = make_fields(prompt, systems, loras)

        def draw(values: dict, progress=gr.Progress()) -> Iterator[dict]:  # noqa: B008 (Gradio looks for it there)
            asked = {name: values[field] for name, field in fields.items()}
            options = {"device": device, "folder": folder, "progress": lambda done, of: progress((done, of))}
            try:
                yield {note: html.escape(paint.said_first(asked["system"], asked["prompt"], asked["lora"]))}
                pictures = paint.paint(**asked, **options)
                file = paint.save_sheet(pictures, asked, kept.name)
            except Exception as error:
                if (sentence := inputs.explain(error)) is None:
                    raise
                yield {note: f"<b>{html.escape(sentence)}</b>"}  # the pictures that are there stay
                return
            yield {
                gallery: list(pictures),
                chosen: 0,
                save: gr.DownloadButton(value=file, interactive=True),
                again: gr.Button(interactive=asked["system"] in INPAINTING),
            }

        asks = [prompt.submit, fields["negative"].submit, button.click]
        gr.on(asks, draw, {*fields.values()}, [note, gallery, chosen, save, again], show_progress_on=gallery)
        gallery.select(number_of, None, chosen)
        again.click(to_editor, [gallery, chosen], [fields["editor"], from_picture])
    return blocks


def make_fields(prompt: gr.Textbox, systems: list[str], loras: list[str]) -> tuple[dict, gr.Accordion]:
    """The fields by the names of `paint.paint`'s arguments, and what holds the editor."""
    start = SYSTEMS[systems[0]]
    fields = {"prompt": prompt}
    fields["system"] = gr.Dropdown(systems, value=systems[0], label="System", info=start.summary)
    with gr.Row():
        fields["count"] = gr.Slider(*paint.COUNT, 4, step=1, label="Pictures")
        fields["seed"] = gr.Number(0, precision=0, label="Seed", info="The same gives the same pictures")
    with gr.Row():
        fields["steps"] = gr.Slider(1, 100, start.steps, step=1, label="Steps")
        fields["guidance"] = gr.Slider(*errors.GUIDANCE, start.guidance, step=0.5, label="Guidance", info="1 is off")
    fields["negative"] = gr.Textbox(label="Negative prompt", info="What to stay away from, at a guidance above 1")
    with gr.Group(visible=bool(loras) and "lora" in start.inputs) as with_lora:
        calls = ", ".join(f"{name} by “{CALLS[name]}”" for name in loras)
        fields["lora"] = gr.Dropdown(loras, value=[], multiselect=True, label="LoRA", info=f"A prompt calls {calls}")
        fields["lora_strength"] = gr.Slider(*inputs.LORA_STRENGTH, 1, step=0.1, label="Strength of the LoRA")
    with gr.Accordion("Draw from a picture", open=False, visible=systems[0] in INPAINTING) as from_picture:
        gr.Markdown(FROM_PICTURE)
        brush = gr.Brush(default_size=24, colors=["#D55E00"], color_mode="fixed")
        size = {"canvas_size": CANVAS, "fixed_canvas": True, "layers": False, "transforms": (), "show_label": False}
        size["format"] = "png"  # what is not brushed over stays as it is, to the pixel
        fields["editor"] = gr.ImageEditor(type="pil", sources=["upload"], brush=brush, elem_id="editor", **size)
        fields["strength"] = gr.Slider(0.05, 1, 0.6, step=0.05, label="Strength")

    def change(system: str) -> list:
        entry = SYSTEMS[system]
        return [
            gr.Dropdown(info=entry.summary),
            gr.Slider(value=entry.steps),
            gr.Slider(value=entry.guidance),
            gr.Dropdown(value=[]),
            gr.Group(visible=bool(loras) and "lora" in entry.inputs),
            gr.Accordion(visible=system in INPAINTING),
        ]

    changed = [fields[name] for name in ("system", "steps", "guidance", "lora")]
    fields["system"].input(change, fields["system"], [*changed, with_lora, from_picture], show_progress="hidden")
    return fields, from_picture


def make_gallery() -> gr.Gallery:
    """Where the pictures are shown; a click enlarges one."""
    form = {"columns": 2, "object_fit": "contain", "buttons": ["download", "fullscreen"]}
    return gr.Gallery(label="Pictures", type="pil", format="png", interactive=False, elem_id="pictures", **form)


def number_of(event: gr.SelectData) -> int:
    """The number of the picture that was clicked."""
    return event.index


def to_editor(pictures: list, number: int) -> tuple:
    """A picture of the gallery as the editor takes it, and the editor opened."""
    picture = pictures[number][0]
    return {"background": picture, "layers": [], "composite": picture}, gr.Accordion(open=True)
