"""noise-predictor-ddpm: the same U-Net, asked for the noise until it draws: the pictures of notebook 02."""

from dataclasses import replace

from course_utils.recipes.noise_predictor_eps import RECIPE as SHORT

RECIPE = replace(
    SHORT,
    name="noise-predictor-ddpm",
    summary="a small U-Net that predicts the noise in 32x32 smileys, as DDPM does: notebook 02 draws with it",
    time_share=1.0,
)
