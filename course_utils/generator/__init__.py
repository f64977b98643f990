"""From noise to a picture, step by step: the middle box.

    noise ──► [ noise predictor (unet) ──► one step back (samplers) ] × steps ──► picture or latent
                    ▲          ▲
              step t (and context, from a text encoder)

`schedules` says how much noise there is at step t, `objectives` what the network learns to predict, `unet` is the
network, `samplers` go back with it. Schedule, objective, network and sampler are separate: any fits any.
"""
