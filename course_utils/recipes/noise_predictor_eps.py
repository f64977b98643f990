"""noise-predictor-eps: the same U-Net, asked for the noise: notebook 02 compares the three."""

from course_utils.recipes.noise_predictor import make_recipe

# residual: at the noisy end the input is the noise, and six minutes do not teach the network to copy it
RECIPE = make_recipe("eps", residual=True)
