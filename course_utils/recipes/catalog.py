"""All recipes, found by listing this package: a new file with a RECIPE in it is a new entry."""

import importlib
import pkgutil
from graphlib import TopologicalSorter

import course_utils.recipes
from course_utils import checkpoints
from course_utils.errors import CheckpointError, InputError
from course_utils.training import Recipe


def recipes() -> dict[str, Recipe]:
    """Return {name: Recipe} of every recipe, sorted by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(course_utils.recipes.__path__))
    modules = [importlib.import_module(f"course_utils.recipes.{name}") for name in names if name != "catalog"]
    return {module.RECIPE.name: module.RECIPE for module in modules if hasattr(module, "RECIPE")}


def find(name: str) -> Recipe:
    """Return the recipe of that name. Raises InputError, naming the choices, when there is none."""
    known = recipes()
    if name not in known:
        raise InputError(f"unknown recipe {name!r}: choose one of {', '.join(known)}")
    return known[name]


def in_order() -> list[Recipe]:
    """Return every recipe, each after those whose checkpoints it requires."""
    known = recipes()
    return [known[name] for name in TopologicalSorter({r.name: r.requires for r in known.values()}).static_order()]


def check_required(recipe: Recipe) -> None:
    """Raise CheckpointError unless all that a recipe requires is at hand and fits together."""
    missing = [name for name in recipe.requires if name not in checkpoints.available()]
    if missing:
        raise CheckpointError(
            f"{recipe.name} builds on {', '.join(recipe.requires)}, and there is no checkpoint of "
            f"{' nor of '.join(missing)}: first `course train {missing[0]} --minutes 60`, or train all in order, "
            "`course train --all --minutes 600`"
        )
    for name in recipe.requires:
        for parent in set(checkpoints.card(name).get("parents", {})) & set(recipe.requires):
            checkpoints.parent_folder(name, parent)
