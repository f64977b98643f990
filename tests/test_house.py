"""The house stands as the map says: who imports whom, how long modules and functions are, what is documented."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "course_utils").rglob("*.py"))
GROUND = {"errors", "devices", "data", "layers"}
BOXES = {"text_encoder", "image_encoder", "generator", "decoder"}
LIBRARY = GROUND | BOXES | {"checkpoints", "runs", "prefetch", "training", "datasets", "systems", "finetune", "interop"}
ALLOWED = {  # what each folder or module may import, itself aside; held for every one of them
    "errors": set(),
    "devices": {"errors"},
    "data": {"errors", "devices"},
    "layers": set(),
    **{box: {"layers", "devices", "errors"} for box in BOXES},
    "generator.samplers": {"errors", "generator.schedules", "generator.objectives"},  # samplers know no network
    "generator.guidance": {"errors", "generator.schedules", "generator.objectives"},
    "checkpoints": {"errors", "data"},
    "runs": {"errors", "checkpoints"},
    "prefetch": {"errors"},
    "training": {"errors", "checkpoints", "devices", "runs", "prefetch"},
    "datasets": {"errors", "data", "checkpoints"},
    "systems.reading": {"errors", "data", "text_encoder", "datasets"},  # which words a system was shown
    "systems": BOXES | {"errors", "layers", "devices", "data", "checkpoints"},
    "finetune": {"errors", "generator", "layers", "devices"},
    "interop": LIBRARY,
    "recipes": LIBRARY | {"evaluation.evaluator"},  # a judge is a checkpoint too
    "evaluation": LIBRARY | {"recipes"},
    "figures": LIBRARY | {"evaluation"},
    "checks": {"figures.plotting", "generator"},  # some exercises run a sampler
    "app": LIBRARY | {"recipes", "evaluation"},
    "app.search": LIBRARY | {"app", "figures.plotting"},  # its page has captions
    "cli": {"app", "errors"},
}


def module_name(path: Path) -> str:
    """generator.samplers for course_utils/generator/samplers.py."""
    return ".".join(path.relative_to(ROOT / "course_utils").with_suffix("").parts).removesuffix(".__init__")


def local_imports(source: str) -> set[str]:
    """What a source imports from course_utils, as names below it, wherever in the file the import stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write full paths: they are the map"
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name for name in submodules if exists(name)} or {node.module}
    return {name.removeprefix("course_utils.") for name in found if name.startswith("course_utils.")}


def exists(module: str) -> bool:
    """Is there such a module or package in this repository?"""
    path = ROOT.joinpath(*module.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def within(name: str, groups: set[str]) -> bool:
    """Does a module lie in one of the groups: `generator.unet` in `generator`?"""
    return any(name == group or name.startswith(group + ".") for group in groups)


def offences(module: str, imports: set[str]) -> list[str]:
    """Every import of a module that goes against the direction of the house."""
    folder = module.split(".")[0]
    if module == "__init__":
        return sorted(imports)
    allowed = ALLOWED[module] if module in ALLOWED else ALLOWED[folder] | {folder}
    wrong = {name for name in imports if not within(name, allowed) or within(name, {"figures.widgets"})}
    return [f"{module} imports {name}" for name in sorted(wrong)]


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_import_direction(path):
    assert offences(module_name(path), local_imports(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("module", "imports"),
    [
        ("generator.unet", "import course_utils.text_encoder.clip"),
        ("layers", "from course_utils import devices"),
        ("generator.samplers", "from course_utils.generator.unet import UNet"),
        ("training", "def f():\n    from course_utils.recipes import noise_predictor"),
        ("cli", "import course_utils.figures.widgets"),
        ("data", "from course_utils.layers import Attention"),
    ],
)
def test_a_wrong_import_is_caught(module, imports):
    assert offences(module, local_imports(imports))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_module_length(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, "a module tells one idea: is this still one?"


def without_docstring(node: ast.AST) -> list[ast.stmt]:
    """The body of a function or class, its docstring aside."""
    return node.body[ast.get_docstring(node, clean=False) is not None :]


def body_lines(node: ast.AST) -> int:
    """Lines of a function without its docstring, those of functions defined in it included."""
    body = without_docstring(node)
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_function_length(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]

    def limit(node):  # constructors lay out a network; a sampler or a training loop is one generator
        whole = node.name == "__init__" or any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in ast.walk(node))
        return 80 if whole else 50

    assert [f"{f.name}: {body_lines(f)}" for f in functions if body_lines(f) > limit(f)] == []


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_public_things_are_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [
        node
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    assert ast.get_docstring(tree), "the module has no docstring"
    long = [node for node in public if isinstance(node, ast.ClassDef) or body_lines(node) > 5]  # short ones need none
    assert [node.name for node in long if not ast.get_docstring(node)] == []


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=module_name)
def test_packages_hold_a_picture_and_no_re_exports(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert without_docstring(tree) == []
