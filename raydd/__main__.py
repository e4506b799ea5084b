"""`python -m raydd`."""

from raydd.cli.main import entry

entry()
