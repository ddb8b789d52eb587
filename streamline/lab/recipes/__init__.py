"""Recipes that train the bundled models from nothing: a procedural world, two model families.

`python -m streamline.lab.recipes.animatediff` and `python -m streamline.lab.recipes.svd` each train one model;
`python -m streamline.lab.recipes.measure` says what a trained model is worth.
"""
