"""Every notebook keeps the rules of form, agrees with its text twin, and is a valid file; the rules themselves bite.

The notebooks are tested as git keeps them, staged or committed: a learner who runs, solves and saves them has done
nothing wrong. `python tools/notebooks.py check` looks at the files as they lie here.
"""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tests.test_lab import git
from tools import notebook_rules, notebooks

NAMES = notebooks.kept_names()


@pytest.fixture(scope="module")
def kept_folder(tmp_path_factory):
    """The notebooks and their text twins as git keeps them."""
    return notebooks.export_kept(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def kept(kept_folder, monkeypatch):
    """Let `tools.notebooks` see those, and nobody's edits."""
    monkeypatch.setattr(notebooks, "NOTEBOOKS", kept_folder)


@pytest.mark.parametrize("name", NAMES)
def test_valid_and_tidy(name, kept):
    nb = nbformat.read(notebooks.ipynb(name), as_version=4)
    nbformat.validate(nb)
    assert nb.metadata.kernelspec.name == "python3"
    assert notebook_rules.untidy(name) is None


@pytest.mark.parametrize("name", NAMES)
def test_twins_agree(name, kept):
    assert notebook_rules.twins_differ(name) is None


@pytest.mark.parametrize("rule", notebook_rules.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_form(name, rule, kept):
    nb = nbformat.read(notebooks.ipynb(name), as_version=4)
    limits = notebook_rules.LIMITS.get(name[:2], notebook_rules.Limits())
    assert list(rule(nb, limits)) == []


def test_the_rules_bite(monkeypatch):
    monkeypatch.setattr(notebook_rules.common_parts, "address", lambda: "someone/course")  # else badges are left out
    long_cell = new_code_cell("x = 1\n" * 41 + "'/home/someone/file'", execution_count=1)
    failing = new_code_cell("# NBVAL_CHECK_OUTPUT\n1 / 0", execution_count=7)
    failing.outputs = [new_output("error", ename="E", evalue="", traceback=[])]
    nb = new_notebook(cells=[new_markdown_cell("No title. $$x$$" * 13), long_cell, long_cell, failing])
    nb.metadata["widgets"] = {}
    nb.cells[2].outputs = [new_output("display_data", data={notebooks.WIDGET_VIEW: {}})]
    found = "\n".join(notebook_rules.problems(nb))
    for words in (
        "words of prose",
        "median code cell",
        "of 42 lines",
        "Three code cells",
        "13 displayed formulas",
        "0 exercises",
        "1 cells with",
        "top to bottom",
        "raises without",
        "start a slide",
        "speaker notes",
        "one '# ' title",
        "Colab badge",
        "colab_setup.py",
        "path of one machine (/home/someone",
        "widget was saved",
        "Widget state",
    ):
        assert words in found, words


def test_words_are_the_readers_words():
    text = "Three plain words: 0.71 [0.69, 0.73]\n```python\nnot = these\n```\n$$\nx_t = y\n$$\n[a link](https://example.com/a-b)"
    assert notebook_rules.count_words(text) == 5


def test_text_twin_round_trip(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    source = (
        '# %% [markdown] slideshow={"slide_type": "slide"}\n# # Title\n\n'
        '# %% tags=["solution"]\nprint(1 + 1)\n\n# %%\nprint(2)\n'
    )
    (tmp_path / "text").mkdir()
    notebooks.text("00_a").write_text(source, encoding="utf-8")
    assert notebooks.sync("00_a") and not notebooks.sync("00_a")
    nb = nbformat.read(notebooks.ipynb("00_a"), as_version=4)
    nb.cells[1].outputs, nb.cells[1].execution_count = [new_output("stream", text="2\n")], 1
    notebooks.ipynb("00_a").write_text(notebooks.dumps(nb), encoding="utf-8")
    notebooks.text("00_a").write_text(source.replace("print(2)", "print(3)"), encoding="utf-8")
    notebooks.sync("00_a")  # the text changed: the output of the unchanged cell stays
    again = nbformat.read(notebooks.ipynb("00_a"), as_version=4)
    assert again.cells[1].outputs[0].text == "2\n" and again.cells[2].source == "print(3)"
    assert notebooks.to_text(again) == source.replace("print(2)", "print(3)")
    assert notebook_rules.twins_differ("00_a") is None
    notebooks.text("00_a").write_text(source, encoding="utf-8")
    assert "differ from cell 2" in notebook_rules.twins_differ("00_a")


def test_a_learners_work_is_seen_by_check_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    notebooks.text("00_a").parent.mkdir(parents=True)
    notebooks.text("00_a").write_text("# %%\nprint(1)\n", encoding="utf-8")
    notebooks.sync("00_a")
    assert notebooks.kept_names() == ["00_a"]  # before there is a repository: all there are
    for command in (["init", "-q"], ["add", "-A"]):
        git(tmp_path, *command)
    kept = notebooks.ipynb("00_a").read_text(encoding="utf-8")
    nb = nbformat.read(notebooks.ipynb("00_a"), as_version=4)
    nb.cells[0].source, nb.metadata["language_info"]["version"] = "print(2)", "3.11.2"
    for name in ("00_a", "00_a-Copy1"):
        nbformat.write(nb, notebooks.ipynb(name))
    assert notebooks.kept_names() == ["00_a"] and notebooks.names() == ["00_a", "00_a-Copy1"]
    exported = notebooks.export_kept(tmp_path / "kept")
    assert (exported / "00_a.ipynb").read_text(encoding="utf-8") == kept
    assert (exported / "text" / "00_a.py").is_file() and not (exported / "00_a-Copy1.ipynb").exists()
    found = "\n".join(notebook_rules.all_problems("00_a"))
    assert "differ from cell 0" in found and "as Jupyter saved it" in found


def test_a_notebook_runs_in_a_kernel_and_its_figures_come_out(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    (tmp_path / "text").mkdir()
    notebooks.text("00_a").write_text(
        "# %%\nimport matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\n\n# %%\nprint('a')\nprint('b')\n",
        encoding="utf-8",
    )
    assert notebooks.run("00_a") > 0
    cells = nbformat.read(notebooks.ipynb("00_a"), as_version=4).cells
    assert cells[1].outputs[0].text == "a\nb\n"
    assert all("execution" not in cell.metadata for cell in cells)
    (picture,) = notebooks.figures("00_a", tmp_path / "figures")
    assert picture.read_bytes().startswith(b"\x89PNG")
