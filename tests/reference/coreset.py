"""Greedy selections written down naively: one image at a time, every distance anew, in plain Python floats.

Sources: k-center as Sener and Savarese (ICLR 2018, algorithm 1) have it, herding as iCaRL does (Rebuffi et al., CVPR
2017, algorithm 4). Nothing of the product is imported.
"""

import math
from collections.abc import Sequence
from itertools import combinations

Point = Sequence[float]


def mean(points: Sequence[Point]) -> list[float]:
    return [math.fsum(values) / len(points) for values in zip(*points, strict=True)]


def farthest_first(points: Sequence[Point], count: int) -> list[int]:
    """From the point nearest to the mean, each time the point whose nearest chosen one is farthest away."""
    centre = mean(points)
    chosen = [min(range(len(points)), key=lambda row: math.dist(points[row], centre))]
    while len(chosen) < count:
        left = [row for row in range(len(points)) if row not in chosen]
        chosen.append(max(left, key=lambda row: min(math.dist(points[row], points[other]) for other in chosen)))
    return chosen


def radius(points: Sequence[Point], chosen: Sequence[int]) -> float:
    """How far the point that is worst off is from the nearest chosen one."""
    return max(min(math.dist(point, points[row]) for row in chosen) for point in points)


def least_radius(points: Sequence[Point], count: int) -> float:
    """The smallest radius that any choice of so many points has."""
    return min(radius(points, chosen) for chosen in combinations(range(len(points)), count))


def off_mean(points: Sequence[Point], chosen: Sequence[int]) -> float:
    """How far the mean of the chosen points is from the mean of all."""
    return math.dist(mean(points), mean([points[row] for row in chosen]))


def herded(points: Sequence[Point], count: int) -> list[int]:
    """Each time the point that brings the mean of those chosen nearest to the mean of all."""
    chosen: list[int] = []
    while len(chosen) < count:
        left = [row for row in range(len(points)) if row not in chosen]
        chosen.append(min(left, key=lambda row: off_mean(points, [*chosen, row])))
    return chosen
