"""noise-predictor-eps-plain: asked for noise, without its input added to the answer: the control of notebook 02."""

from course_utils.recipes.noise_predictor import make_recipe

RECIPE = make_recipe("eps", name="eps-plain")
