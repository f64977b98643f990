"""noise-predictor-eps: the noise predictor that answers with noise, as DDPM does. It draws the pictures of notebook 02."""

from course_utils.recipes.noise_predictor import make_recipe

RECIPE = make_recipe("eps")
