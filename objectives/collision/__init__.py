"""Collision of the two hands: engines that search, depths, energies.

Every engine answers the same question through `search` and `depths`: how deep is each vertex in
the other hand. `exact` looks at every pair and is the reference, `culled` gives the same answer
from a fraction of the pairs, `voxel` and `voxel_published` are the published method's grid.
"""

import math
from functools import partial
from typing import Final, Literal

from jaxtyping import Array, Bool, Float

from mano_jax.model import Hands
from objectives.collision.depth import (
    ContactRows,
    contact_rows,
    penetration_depth,
    signed_depth,
    surface_distance,
)
from objectives.collision.energies import (
    CONTACT_BAND,
    ROBUST_SCALE,
    box_scale,
    collision_energy,
    contact_energy,
    robust_depth_energy,
    squared_depth_energy,
)
from objectives.collision.search import Search, nothing_found, search_culled, search_exact
from objectives.collision.tiles import Blocking
from objectives.collision.voxel import VoxelField, search_voxel, voxel_depth

CollisionEngine = Literal["exact", "culled", "voxel", "voxel_published"]
Found = Search | VoxelField

_SEARCHES: Final = {"exact": search_exact, "culled": search_culled}
_GRIDS: Final = {"voxel": search_voxel, "voxel_published": partial(search_voxel, published=True)}


def search(
    hands: Hands,
    vertices: Float[Array, "*batch 2 V 3"],
    active: Bool[Array, "*batch"],
    *,
    engine: CollisionEngine = "culled",
    band: float = 0.0,
) -> Found:
    """Search both hands of every active frame; what is found can be kept for some steps.

    Args:
        hands: the hand model.
        vertices: both hands in one frame, metres.
        active: frames with both hands.
        engine: which engine.
        band: how near vertices outside have their closest face too, metres, static. The grids know
            no faces: a band is a `ValueError`, rather than another engine's answer.
    """
    if engine in _SEARCHES:
        return _SEARCHES[engine](hands, vertices, active, band=band)
    if band:
        raise ValueError(
            "contact and margins need the faces near vertices outside: choose the engine 'culled' "
            f"or 'exact'; received {engine!r}, a grid of depths inside"
        )
    return _GRIDS[engine](hands, vertices, active)


def depths(
    hands: Hands, vertices: Float[Array, "*batch 2 V 3"], found: Found
) -> Float[Array, "*batch 2 V"]:
    """Depth of each vertex in the other hand, metres, by the engine that made `found`."""
    if isinstance(found, VoxelField):
        return voxel_depth(vertices, found)
    return penetration_depth(hands, vertices, found)


def direction_scale(
    vertices: Float[Array, "*batch 2 V 3"], found: Found
) -> Float[Array, "*batch 2"]:
    """Length that the depths of each hand's vertices are divided by, metres: see `box_scale`.

    It is the scale of the hand that they are in; by the published program, their own hand's.
    """
    if isinstance(found, VoxelField):
        return found.scale if found.published else found.scale[..., ::-1]
    return box_scale(vertices)[..., ::-1]


def exact_depths(
    hands: Hands, vertices: Float[Array, "*batch 2 V 3"], active: Bool[Array, "*batch"]
) -> Float[Array, "*batch 2 V"]:
    """Depth of each vertex in the other hand (metres), freshly searched by the reference."""
    return penetration_depth(hands, vertices, search_exact(hands, vertices, active))


def exact_distances(
    hands: Hands, vertices: Float[Array, "*batch 2 V 3"], active: Bool[Array, "*batch"]
) -> Float[Array, "*batch 2 V"]:
    """Unsigned distance of each vertex to the other hand's surface (metres)."""
    found = search_exact(hands, vertices, active, band=math.inf)
    return surface_distance(hands, vertices, found)


__all__ = [
    "CONTACT_BAND",
    "ROBUST_SCALE",
    "Blocking",
    "CollisionEngine",
    "ContactRows",
    "Found",
    "Search",
    "VoxelField",
    "box_scale",
    "collision_energy",
    "contact_energy",
    "contact_rows",
    "depths",
    "direction_scale",
    "exact_depths",
    "exact_distances",
    "nothing_found",
    "penetration_depth",
    "robust_depth_energy",
    "search",
    "search_culled",
    "search_exact",
    "search_voxel",
    "signed_depth",
    "squared_depth_energy",
    "surface_distance",
]
