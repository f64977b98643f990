"""noise-predictor-eps: the U-Net that answers with the noise, as DDPM does, and draws the pictures of notebook 02."""

from course_utils.recipes.noise_predictor import make_recipe

RECIPE = make_recipe(
    "eps", residual=True
)  # at the noisy end the input is the noise: six minutes do not teach to copy it
