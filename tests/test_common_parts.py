"""Links, badges and setup cells of the notebooks are brought up to date in both twins, and nothing else is touched."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools import common_parts, notebook_rules, notebooks

NAMES = ("00_start_here", "01_first", "02_second", "10_last")
OLD_BADGE = "[![Open in Colab](https://colab.research.google.com/a.svg)](https://colab.research.google.com/b)"
OLD_SETUP = '# Setup. As it was.\nsys.path.insert(0, os.path.abspath("x" if y else ".."))'


@pytest.fixture
def course(tmp_path, monkeypatch):
    """Four small notebooks, one of them executed, in a course without an address."""
    source, present = common_parts.setup_source(), common_parts.repository()
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(common_parts, "ROOT", tmp_path)
    monkeypatch.setattr(common_parts, "SETUP", tmp_path / "tools" / "colab_setup.py")
    monkeypatch.setattr(common_parts, "ADDRESSED", ("README.md",))
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "colab_setup.py").write_text(source.replace(present, common_parts.UNSET), encoding="utf-8")
    (tmp_path / "README.md").write_text(f"https://github.com/{common_parts.UNSET}, and more", encoding="utf-8")
    for name in NAMES:
        cells = [
            new_markdown_cell(f"# {name[:2]} · Name {name[3:]}: why?\n\n{OLD_BADGE}\n\nWords."),
            new_code_cell(OLD_SETUP + ("\nimport torch" if name.startswith("01") else ""), execution_count=1),
            new_code_cell("print(1)", execution_count=2, outputs=[new_output("stream", text="1\n")]),
        ]
        nb = new_notebook(cells=cells)
        notebooks.write(notebooks.ipynb(name), notebooks.dumps(nb))
        notebooks.write(notebooks.text(name), notebooks.to_text(nb))
    return tmp_path


def cells(name):
    """The cells of the notebook with outputs, which agree with those of its text twin."""
    assert notebook_rules.twins_differ(name) is None and notebook_rules.untidy(name) is None
    return nbformat.read(notebooks.ipynb(name), as_version=4).cells


def test_all_is_brought_up_to_date_once(course):
    assert common_parts.bring_along(notebooks.names()) == 2 * len(NAMES)
    assert common_parts.bring_along(notebooks.names()) == 0
    first, second, third = cells("00_start_here"), cells("01_first"), cells("02_second")
    assert first[0].source == "# 00 · Name start_here: why?\n\nWords."  # no badge that leads nowhere
    assert first[1].source == first[-1].source == "[01 · Name first](01_first.ipynb) →"
    assert third[1].source == (
        "← [01 · Name first](01_first.ipynb) · [Contents](00_start_here.ipynb) · [10 · Name last](10_last.ipynb) →"
    )
    assert second[2].source == f"{common_parts.setup_source()}\nimport torch" and second[2].execution_count == 1
    assert second[3].outputs[0].text == "1\n"
    assert all(not cell.metadata for cell in first if cell.cell_type == "markdown")  # not on a slide


def test_the_address_is_written_everywhere(course):
    assert common_parts.address() is None
    assert common_parts.name_address("me/course") == 2 * len(NAMES) + 2
    assert common_parts.address() == "me/course"
    assert (course / "README.md").read_text(encoding="utf-8").startswith("https://github.com/me/course,")
    found = cells("01_first")
    for door in (
        "https://colab.research.google.com/github/me/course/blob/main/notebooks/01_first.ipynb",
        "https://kaggle.com/kernels/welcome?src=https://github.com/me/course/blob/main/notebooks/01_first.ipynb",
    ):
        assert f"]({door})" in found[1].source
    assert 'COURSE_URL = "https://github.com/me/course"' in found[2].source
    assert list(notebook_rules.opening(new_notebook(cells=found), notebook_rules.Limits())) == []
    assert common_parts.name_address("you/other") and "me/course" not in str(cells("01_first"))
    assert common_parts.name_address(common_parts.UNSET) and "Open in" not in str(cells("01_first"))


def test_the_rule_of_form_asks_for_them(course):
    def faults(name):
        return "\n".join(notebook_rules.opening(nbformat.read(notebooks.ipynb(name), as_version=4), None))

    assert "links to its neighbours" in faults("01_first") and "tools/colab_setup.py" in faults("01_first")
    assert "A badge leads nowhere" in faults("01_first")
    common_parts.bring_along(["01_first"])
    assert faults("01_first") == ""


def test_a_picture_without_words_is_named():
    def faults(**metadata):
        cell = new_code_cell("draw()", metadata=metadata, outputs=[new_output("display_data", data={"image/png": "x"})])
        return list(notebook_rules.alt_texts(new_notebook(cells=[cell, new_code_cell("1")]), None))

    assert faults() == ['A picture without words for who cannot see it (alt="…" in the cell\'s header): draw()']
    assert faults(alt="picture") != [] and faults(alt="Noise on the left, a panda on the right.") == []


def test_words_for_a_picture_live_in_the_text_twin(course):
    name = "02_second"
    source = notebooks.text(name).read_text(encoding="utf-8")
    words = "a panda, in three steps"
    notebooks.text(name).write_text(re.sub(r"# %%\nprint", f'# %% alt="{words}"\nprint', source), encoding="utf-8")
    assert notebooks.sync(name)
    assert [cell.metadata.get("alt") for cell in cells(name)][-1] == words and cells(name)[-1].outputs
    notebooks.sync(name, from_ipynb=True)
    assert f'alt="{words}"' in notebooks.text(name).read_text(encoding="utf-8")


def test_a_wrong_address_is_refused(monkeypatch):
    monkeypatch.setattr(common_parts, "name_address", lambda name: pytest.fail("must not be called"))
    for wrong in ("course", "https://github.com/me/course", "me/the course"):
        with pytest.raises(SystemExit, match="OWNER/REPOSITORY"):
            notebooks.main(["address", wrong])
