"""Probes: what a set gives away, and what it is good for."""
