"""raydd: dataset distillation on Ray."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("raydd")
except PackageNotFoundError:
    __version__ = "0+unknown"
