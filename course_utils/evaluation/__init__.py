"""How pictures are measured: a small classifier of our own, distances, fixed prompts, and the tables they fill.

prompts ──► a system's pictures ──► evaluator ──► metrics ──► report
"""
