"""Collision of the two hands: signed distance by exact search, and the penetration energy."""

from objectives.collision.exact import Search, search
from objectives.collision.penetration import (
    box_scale,
    collision_energy,
    penetration_depth,
    surface_distance,
)

__all__ = [
    "Search",
    "box_scale",
    "collision_energy",
    "exact_depths",
    "exact_distances",
    "penetration_depth",
    "search",
    "surface_distance",
]


def exact_depths(hands, vertices, active):
    """Depth of each vertex in the other hand (metres), freshly searched."""
    return penetration_depth(hands, vertices, search(hands, vertices, active))


def exact_distances(hands, vertices, active):
    """Unsigned distance of each vertex to the other hand's surface (metres), freshly searched."""
    found = search(hands, vertices, active, everywhere=True)
    return surface_distance(hands, vertices, found)
