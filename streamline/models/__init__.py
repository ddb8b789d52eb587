"""The models that can be asked for by name: what they are made of, how they are loaded and previewed."""
