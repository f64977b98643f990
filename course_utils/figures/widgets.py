"""Sliders and a prompt box around pure drawing functions; nothing in the course depends on them.

The figure is an ordinary output of the cell, updated in place: it stays in the saved notebook, on GitHub and in slides,
and no widget state has to be saved. Where nobody can move a slider, the figure stands alone.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt

from course_utils.errors import file_name

SAVED = "drawings"
EXAMPLES = ("pink butterfly, noto style, blue sky and grass", "粉色的蝴蝶,蓝天,草地")


def has_front_end() -> bool:
    """True if a person sits at a notebook that can show widgets.

    Whoever runs notebooks without a person (nbconvert, nbval) forbids `input()`; JupyterLab, VS Code, Colab allow it.
    """
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    kernel = getattr(get_ipython(), "kernel", None)
    request = kernel.get_parent("shell") if kernel is not None else None
    return find_spec("ipywidgets") is not None and bool(((request or {}).get("content") or {}).get("allow_stdin"))


def _show(figure, handle=None):
    """Display a figure once, or in place of the one that stands there; returns the handle for the next time."""
    plt.close(figure)  # otherwise the notebook shows every open figure a second time at the end of the cell
    if find_spec("IPython") is None:
        return None
    from IPython.display import display

    return (handle.update(figure) or handle) if handle else display(figure, display_id=True)


def initial_value(control):
    """The value a control starts with: a range in its middle, choices at the first, anything else at itself."""
    if isinstance(control, tuple):
        low, high, *step = control
        step = step[0] if step else 1 if isinstance(low, int) and isinstance(high, int) else (high - low) / 10
        return low + step * int((high - low) / 2 / step)
    if isinstance(control, (list, dict)):
        return next(iter(control.values() if isinstance(control, dict) else control))
    return getattr(control, "value", control)


def _widgets(controls: dict) -> dict:
    """One ipywidget per control, drawing only when it is let go, at its starting value."""
    from ipywidgets import interactive

    made = dict(zip(controls, interactive(lambda **_: None, **controls).children, strict=False))  # the last is output
    for name, widget in made.items():
        widget.value, widget.style = initial_value(controls[name]), {"description_width": "initial"}
        if hasattr(widget, "continuous_update"):
            widget.continuous_update = False  # a drawing takes up to a second
    return made


def explore(draw: Callable, **controls) -> None:
    """Show the figure `draw(**values)` under one control per argument; redraw when a control changes.

    draw: pure function returning a Figure. controls: (low, high), (low, high, step), a list or dict of choices, a bool,
    or an ipywidget. Without a front-end: the figure at the starting values and one line. Built in notebook 01.
    """
    values = {name: initial_value(control) for name, control in controls.items()}
    if not has_front_end():
        print("(Open the notebook in JupyterLab to move the sliders; this is the figure at their start.)")
        _show(draw(**values))
        return
    from IPython.display import display
    from ipywidgets import HTML, VBox

    fields, message = _widgets(controls), HTML()
    display(VBox([*fields.values(), message]))
    handle = _show(draw(**values))
    for field in fields.values():
        field.observe(lambda _: _redraw(draw, fields, message, handle), "value")


def _redraw(draw: Callable, fields: dict, message, handle):
    """Draw with the fields' values; an error becomes one sentence above the figure, which stays as it was.

    What a PromptWarning says stands there before the drawing is done, and stays. Returns the figure, None after an
    error.
    """
    from course_utils.errors import prompt_notes

    notes: list[str] = []

    def tell(note: str) -> None:
        notes.append(html.escape(note))
        message.value = "<br>".join(notes)

    try:
        message.value = "drawing \u2026"
        with prompt_notes(tell):
            figure = draw(**{name: field.value for name, field in fields.items()})
            _show(figure, handle)
        message.value = "<br>".join(notes)
        return figure
    except Exception as error:  # whatever the drawing raised, a learner sees its sentence and can go on
        message.value = f"<b>{html.escape(sentence(error))}</b>"
        return None


def sentence(error: Exception) -> str:
    """An error as one sentence."""
    first = str(error).strip().split("\n")[0] or "no reason given"
    return first if isinstance(error, (ValueError, RuntimeError)) else f"{type(error).__name__}: {first}"


def prompt_box(
    draw: Callable,
    systems: dict[str, tuple[str, ...]] | None = None,
    prompt: str = EXAMPLES[0],
    steps: int = 50,
    guidance: float = 3.0,
    seed: int = 0,
    sizes: dict[str, int] | None = None,
) -> None:
    """A text field, a choice of system, sliders, buttons; the picture is drawn beneath, in place. Enter draws, too.

    draw(prompt, system, steps, guidance, seed) -> Figure, whose title names the prompt; it may raise ValueError with
    one clear sentence. Save writes the figure that is shown into the folder SAVED, here, named by its prompt and seed.
    systems: name -> which of "prompt", "guidance" it takes; the others are greyed out, and a word says why. sizes: what
    to call them -> pixels a side, 0 for a system's own, the first at the start; with them, draw takes a `size` too.
    Without a front-end: the figure at the starting values. Built in notebook 00.
    """
    systems = systems or {"noise-predictor": ()}
    values = {"prompt": prompt, "system": next(iter(systems)), "steps": steps, "guidance": guidance, "seed": seed}
    values |= {"size": next(iter(sizes.values()))} if sizes else {}
    if not has_front_end():
        print("(Open the notebook in JupyterLab for the prompt box; this is its first drawing.)")
        _show(draw(**values))
        return
    from IPython.display import display
    from ipywidgets import Button, HBox, VBox

    fields, why, message = prompt_fields(systems, values, sizes)
    first, others = ("prompt", "system"), ("steps", "guidance", "seed", "size")
    rows = [[fields[name] for name in names if name in fields] for names in (first, others)]
    button, save = Button(description="Draw", button_style="primary"), Button(description="Save", icon="download")
    display(VBox([*rows[0], why, *rows[1], HBox([button, save]), message]))
    shown = [draw(**values), values]  # the figure that stands there, and what it was asked for
    handle = _show(shown[0])

    def redraw(*_) -> None:
        asked = {name: field.value for name, field in fields.items()}
        if (figure := _redraw(draw, fields, message, handle)) is not None:
            shown[:] = figure, asked

    button.on_click(redraw)
    fields["prompt"].on_msg(lambda _, content, __: redraw() if content.get("event") == "submit" else None)  # Enter
    save.on_click(lambda _: _save(*shown, message))


def prompt_fields(systems: dict, values: dict, sizes: dict | None = None):
    """The widgets of `prompt_box`: (fields by name, why something is grey, message)."""
    from ipywidgets import HTML, Dropdown, FloatSlider, IntSlider, Layout, Text

    make = {
        "prompt": partial(Text, placeholder=" / ".join(EXAMPLES)),
        "system": partial(Dropdown, options=list(systems)),
        "steps": partial(IntSlider, min=1, max=200),
        "guidance": partial(FloatSlider, min=1, max=15, step=0.5),
        "seed": partial(IntSlider, min=0, max=999),
        "size": partial(Dropdown, options=list((sizes or {}).items())),
    }
    fields = {
        name: make[name](value=value, description=name, layout=Layout(width="36em")) for name, value in values.items()
    }
    why = HTML()

    def grey_out(_change=None) -> None:
        missing = [name for name in ("prompt", "guidance") if name not in systems[fields["system"].value]]
        for name in ("prompt", "guidance"):
            fields[name].disabled = name in missing
        why.value = f"This system takes no {' and no '.join(missing)}: it draws from noise alone." if missing else ""

    fields["system"].observe(grey_out, "value")
    grey_out()
    return fields, why, HTML()


def _save(figure, asked: dict, message) -> None:
    """Write a figure as PNG, and say where it is, or in one sentence why it is nowhere."""
    from course_utils.checkpoints import write_atomically

    path = Path(SAVED, f"{file_name(asked['prompt'])}, {asked['system']}, seed {asked['seed']}.png")
    try:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=200))
        message.value = f"saved: {html.escape(str(path))}"
    except Exception as error:
        message.value = f"<b>{html.escape(sentence(error))}</b>"


class Line:
    """One line of text as it reads on a page and in a saved notebook: plain, without quotes."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def progress_line(state, width: int = 24) -> str:
    """A TrainState as one line: bar, step, loss, pictures a second, time left."""
    done = min(1.0, state.seconds / max(1e-9, state.seconds + state.seconds_left))
    bar = "#" * round(done * width) + "-" * (width - round(done * width))
    left = f"{int(state.seconds_left) // 60}:{int(state.seconds_left) % 60:02d} left"
    return (
        f"[{bar}] {done:4.0%}  step {state.step:,}  loss {state.loss:.4f}  "
        f"{state.pictures_per_s:,.0f} pictures/s  {left}"
    )


def training_monitor(states: Iterable, every: float = 0.5) -> Iterator:
    """Pass the states of `train` through, and keep one line of text up to date meanwhile.

    every: seconds between updates. In a notebook the line is one output updated in place; elsewhere, and where nobody
    watches, at most one line per tenth of the run. Built in notebook 02.
    """
    from IPython import get_ipython
    from IPython.display import display

    live = getattr(get_ipython(), "kernel", None) is not None
    handle, last, tenth, state = None, -every, -1, None
    for state in states:
        now, done = time.monotonic(), state.seconds / max(1e-9, state.seconds + state.seconds_left)
        if live and now - last >= every:
            line = Line(progress_line(state))
            handle, last = (handle.update(line) or handle) if handle else display(line, display_id=True), now
        elif not live and int(done * 10) > tenth:
            tenth = int(done * 10)
            print(progress_line(state))
        yield state
    if handle is not None:
        handle.update(Line(progress_line(state)))
