"""The command `course`: what a user asks for, checked, done and shown.

cli ──► commands ──► generate ──► a system ──► a picture file
"""
