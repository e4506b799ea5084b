"""What tests share: small data and runs, real servers and browsers, disturbances."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
