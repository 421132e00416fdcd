"""Scenes: a small world in which a picture can be checked against its prompt.

Owns the world (what a prompt means and how its picture looks), a checker that reads a picture
without its prompt, and a small Stable Diffusion trained on nothing but this world. It knows
nothing about render farms: a job renders its prompts like any others.
"""
