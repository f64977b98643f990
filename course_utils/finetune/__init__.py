"""Teach a trained generator something new.

a dozen pictures ──► dreambooth (all weights, and a reminder of what it knew) ──► a generator that knows one car
                 ├─► lora (a small LoRA branch beside frozen weights) ──► a file of 3 MB that any copy can load
                 └─► prefix (a few learned vectors before the prompt's) ──► a file of a few kB
"""
