"""Recipes that train the bundled models from nothing: a procedural world, two model families.

`python -m streamline.recipes.animatediff` and `python -m streamline.recipes.svd` each train one model;
`python -m streamline.recipes.measure` says what a trained model is worth.
"""
