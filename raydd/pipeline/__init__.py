"""From a config to everything that it names: which artefacts exist, and in what order the others are made."""
