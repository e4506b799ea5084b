"""Sweeps: other values of any fields of a config, each point a run."""
