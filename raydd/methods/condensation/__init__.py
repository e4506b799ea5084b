"""Condensation: real and synthetic images compared in fresh networks. DC, DSA, DM, IDC."""
