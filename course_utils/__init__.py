"""Diffusion models from scratch: the code that the notebooks of the course write, piece by piece.

    "pink butterfly"                noise
           │                          │
           ▼                          ▼
    ┌──────────────┐  context  ┌─────────────┐  latent  ┌───────────┐
    │ text_encoder │ ────────► │  generator  │ ───────► │  decoder  │ ───────► picture
    └──────────────┘ (B, L, D) └─────────────┘          └───────────┘
       text → vectors            step by step,            latent or small
                                 from noise               picture → pixels

Three packages, one for each box; they know nothing of each other and meet as tensors. `systems` joins them into
Stable Diffusion, DALL·E 2 and Imagen, `finetune` teaches a trained generator something new, `recipes` say how each
shipped checkpoint was trained. Beneath them lie `devices`, `data`, `layers`; above, the command `course` (`cli`).
Each part arrives with the notebook that builds it.

Import by full path, `from course_utils.generator.samplers import ddim`: the path is the map.
"""
