"""From a picture to a vector.

picture ──► clip_vision ──► one vector for the whole picture
"""
