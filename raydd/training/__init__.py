"""Training networks on images: recipes, the one epoch loop, optimisers, augmentations and views."""
