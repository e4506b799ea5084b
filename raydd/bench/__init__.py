"""Measurements: the product against the plain way of doing the same work, alternating in one process."""
