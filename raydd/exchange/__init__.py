"""Distilled sets, expert trajectories and teachers that come from other code, and sets that go there."""
