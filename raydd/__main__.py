"""`python -m raydd`."""

from raydd.cli import entry

entry()
