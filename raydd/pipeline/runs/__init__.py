"""Where everything of a run lies: folders, keys, and how each thing is opened."""
