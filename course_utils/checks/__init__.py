"""Checks of the exercises.

    learner's function ──► check("01-closed-form", fn) ──► "right" | "not solved yet" | what is likely wrong
                                    │
                     nb01.py, nb02.py, …: reference, random cases, known mistakes, three hints

Use: `from course_utils.checks.core import check, hint`.
"""
