"""Keyed draws: a counter hash in place of a global generator.

A draw is a pure function of (key, id, number of the draw): workers, packing, retries and resume do not touch it.
The hash is integer arithmetic modulo 2^64, hence the same bits on every device: the finaliser of SplitMix64 (Steele,
Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014), over the ids, then over the draws.

One key serves one purpose: two draws under the same key and id share their bits. `key.child(...)` makes another key.

Letters: B ids.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Key:
    """The name of a stream of draws."""

    value: int
    """64 bits, unsigned."""

    @classmethod
    def root(cls, seed: int) -> "Key":
        """The key of a whole run, from the user's seed (any integer)."""
        return cls(_hash_64(seed))

    def child(self, *parts: str | int) -> "Key":
        """The key for one purpose below this one, for instance `key.child("stage", 2, "init")`.

        The parts are hashed with their types and borders: `("a", 1)`, `("a1",)`, `("1",)` and `(1,)` all differ.
        """
        return Key(_hash_64(self.value, *parts))


def uniform(key: Key, ids: Tensor, draws: int = 1) -> Tensor:
    """Uniform float32 [B, draws] in [0, 1), multiples of 2^-24.

    Row i depends on the key and `ids[i]` (int64 [B]) alone.
    """
    return _logical_shift(_bits(key, ids, draws), 40).to(torch.float32) * 2.0**-24


def normal(key: Key, ids: Tensor, draws: int = 1) -> Tensor:
    """Standard normal float32 [B, draws], on the ids' device.

    Row i depends on the key and `ids[i]` (int64 [B]) alone. The inverse distribution function is evaluated in
    float64 on the CPU, since devices differ in its last bits.
    """
    bits = _logical_shift(_bits(key, ids.cpu(), draws), 12)
    probability = (bits.to(torch.float64) + 0.5) * 2.0**-52
    quantile: Tensor = torch.special.ndtri(probability)
    return quantile.to(ids.device, torch.float32)


def integers(key: Key, ids: Tensor, low: int, high: int) -> Tensor:
    """Uniform int64 [B] in [low, high); entry i depends on the key and `ids[i]` (int64 [B]) alone."""
    return _logical_shift(_bits(key, ids, 1)[:, 0], 1) % (high - low) + low


def integer(key: Key, low: int, high: int) -> int:
    """One uniform integer in [low, high)."""
    return int(integers(key, torch.zeros(1, dtype=torch.int64), low, high))


def permutation(key: Key, n: int, device: torch.device | str | None = None) -> Tensor:
    """A uniform permutation of 0..n-1, int64 [n]."""
    return _bits(key, torch.arange(n, device=device), 1)[:, 0].argsort(stable=True)


def initial_seed(key: Key) -> int:
    """A seed for somebody else's generator: 32 bits, unsigned, which every library takes."""
    return key.value >> 32


@contextmanager
def seeded(key: Key) -> Iterator[None]:
    """Torch's global generators (CPU and the current GPU) seeded from the key, and put back on leaving.

    For initialisers and torchvision, which know no other source.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(initial_seed(key))
        for _ in devices:
            torch.cuda.manual_seed(initial_seed(key))
        yield


def _hash_64(*parts: str | int) -> int:
    """The first 64 bits of BLAKE2b over the parts written as JSON."""
    return int.from_bytes(hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest(), "little")


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return value - 2**64 if value >= 2**63 else value


_INCREMENT = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _logical_shift(x: Tensor, by: int) -> Tensor:
    """Shift int64 to the right and fill with zeros, where `>>` copies the sign."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64, a bijection of int64 in which every input bit moves every output bit."""
    x = (x ^ _logical_shift(x, 30)) * _MULTIPLIERS[0]
    x = (x ^ _logical_shift(x, 27)) * _MULTIPLIERS[1]
    return x ^ _logical_shift(x, 31)


def _bits(key: Key, ids: Tensor, draws: int) -> Tensor:
    """64 random bits per id and draw, int64 [B, draws]."""
    rows = _mix(ids * _INCREMENT + _signed(key.value))
    steps = torch.arange(1, draws + 1, device=ids.device) * _INCREMENT
    return _mix(rows[:, None] + steps)
