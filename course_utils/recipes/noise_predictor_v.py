"""noise-predictor-v: the same U-Net, equally trained, asked for the velocity: notebook 02 compares the three."""

from course_utils.recipes.noise_predictor import make_recipe

RECIPE = make_recipe("v")
