"""The report: one HTML page with everything in it, made from what a run left behind."""

from raydd.report.page import build, write

__all__ = ["build", "write"]
