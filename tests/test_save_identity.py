"""The import is the code you wrote: a notebook's `# @save PATH` cells are the library's definitions.

Compared as syntax trees, so comments, docstrings, types of arguments and line breaks are free. A cell marked
`# @equivalent PATH` may differ in how it computes; then the library defines the same names, and a numeric test holds
the two together.
"""

import ast
import re
from pathlib import Path

import pytest

from tools import notebooks

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"^# @(save|equivalent)\s+(\S+)")


def marked_cells() -> list:
    """(notebook, save or equivalent, path, source) of every marked cell, as test parameters."""
    found = []
    for name in notebooks.names():
        for cell in notebooks.read_text(name).cells if notebooks.text(name).exists() else ():
            mark = MARK.match(cell.source) if cell.cell_type == "code" else None
            if mark:
                found.append(pytest.param(name, *mark.groups(), cell.source, id=f"{name[:2]}-{found_id(cell.source)}"))
    return found


def found_id(source: str) -> str:
    """The names a cell defines, for the test's name."""
    return "+".join(definitions(source)) or "nothing"


def definitions(source: str) -> dict[str, str]:
    """Top-level functions, classes and constants of a source: name -> its tree as `strip` leaves it, as text."""
    found = {}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            found[node.name] = ast.dump(strip(node))
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                found[ast.unparse(target)] = ast.dump(node.value)
    return found


def strip(tree: ast.AST) -> ast.AST:
    """The tree without any docstring, and without the types that only tell a reader what goes in and comes out."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)) and ast.get_docstring(node, False):
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def differences(cell: str, library: str) -> list[str]:
    """Names that a cell defines otherwise than the library, or that the library lacks."""
    theirs = definitions(library)
    return [name for name, tree in definitions(cell).items() if theirs.get(name) != tree]


@pytest.mark.parametrize(("notebook", "kind", "path", "source"), marked_cells())
def test_cell_is_the_library(notebook, kind, path, source):
    file = ROOT / path
    assert file.is_file(), f"{path} does not exist"
    assert definitions(source), "a marked cell defines something"
    library = file.read_text(encoding="utf-8")
    if kind == "save":
        assert differences(source, library) == [], f"notebook {notebook} and {path} differ"
    else:
        assert set(definitions(source)) <= set(definitions(library))


LIBRARY = '''
"""A module."""
SCALE = 127.5

def to_pixels(x0):
    """Return pixels."""
    return (x0 + 1) * SCALE  # [-1, 1] -> [0, 255]

class Net(torch.nn.Module):
    """A network."""
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x."""
        return self.conv(x)
'''


def test_comments_docstrings_types_and_layout_are_free():
    cell = """# @save course_utils/x.py
import torch
SCALE = 127.5
def to_pixels(x0):
    # to the range of a file
    return ((x0 + 1)
            * SCALE)

class Net(torch.nn.Module):
    def forward(self, x):
        return self.conv(x)   # (B, C, H, W)
"""
    assert differences(cell, LIBRARY) == []


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("x0 + 1", "x0 + 2", "to_pixels"),
        ("127.5", "128.0", "SCALE"),
        ("self.conv(x)", "self.conv(x + 0)", "Net"),
        ("def to_pixels(x0)", "def to_pixels(x0=None)", "to_pixels"),
        ("def to_pixels", "def to_pixel", "to_pixel"),
    ],
)
def test_a_change_is_caught(old, new, name):
    changed = LIBRARY.replace(old, new)
    assert changed != LIBRARY and differences(changed, LIBRARY) == [name]
