"""All recipes, found by listing this package: a new file with a RECIPE in it is a new entry."""

import importlib
import pkgutil

import course_utils.recipes


def recipes():
    """Return {name: Recipe} of every recipe, sorted by name."""
    modules = [m.name for m in pkgutil.iter_modules(course_utils.recipes.__path__) if m.name != "catalog"]
    found = [importlib.import_module(f"course_utils.recipes.{name}").RECIPE for name in sorted(modules)]
    return {recipe.name: recipe for recipe in found}


def find(name):
    """Return the recipe of that name. Raises ValueError, naming the choices, when there is none."""
    known = recipes()
    if name not in known:
        raise ValueError(f"unknown recipe {name!r}: choose one of {', '.join(known)}")
    return known[name]
