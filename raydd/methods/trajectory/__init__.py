"""Trajectory matching: MTT, FTD, DATM."""
