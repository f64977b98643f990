"""From the representation to pixels: the last of the three modules.

    picture (B, 3, 64, 64)  ──►  encoder  ──►  latent z (B, 4, 16, 16)  ──►  decoder  ──►  picture (B, 3, 64, 64)

The generator in the middle paints the small z; the decoder makes a picture of it.
"""
