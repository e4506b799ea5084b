"""Distilled sets: images, labels and everything that is needed to use them elsewhere."""
