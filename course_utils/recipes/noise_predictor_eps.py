"""noise-predictor-eps: the U-Net that answers with the noise, as DDPM does, and draws the pictures of notebook 02."""

from course_utils.recipes.noise_predictor import make_recipe

# residual: at the noisy end the input is the noise, and six minutes do not teach the network to copy it
RECIPE = make_recipe("eps", residual=True)
