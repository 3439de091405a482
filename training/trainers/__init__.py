"""Trainers: one for each kind of recipe."""
