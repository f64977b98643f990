"""How each shipped checkpoint was trained: data, model, loss and schedule, one file each.

    course train NAME --minutes M
          │
    recipes/NAME.py ──► training.train ──► checkpoints.save ──► data/checkpoints/NAME.safetensors + NAME.json

`catalog` lists them.
"""
