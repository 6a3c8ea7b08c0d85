"""Vertex ids: the ones other software expects at fingertips and wrist, the rest by bone."""

import numpy as np
from jaxtyping import Float, Int

from experiments.embedded_hand.skeleton import FINGERS, Skeleton
from mano_jax import joint_orders
from mano_jax.topology import boundary_loop

# MANO's wrist loop in the order in which published cap faces run through it. Giving our loop the
# same ids closes our mesh with those faces as well.
WRIST_LOOP = (92, 38, 122, 118, 117, 119, 120, 108, 79, 78, 121, 214, 215, 279, 239, 234)
# MANO numbers roughly palm, index, middle, ring, little finger, thumb.
_PART_ORDER = (0, 1, 2, 3, 4, 5, 6, 10, 11, 12, 7, 8, 9, 13, 14, 15)


def tip_vertices(finger: str) -> list[int]:
    """Every id that some convention takes for a finger's tip; the first belongs to the tip."""
    column = joint_orders.FINGERS.index(finger)
    sets = joint_orders.FINGERTIP_VERTICES.values()
    known = {ids[side][column] for ids in sets for side in ids}
    first = joint_orders.FINGERTIP_VERTICES["smplx"]["right"][column]
    return [first, *sorted(known - {first})]


def renumber(
    vertices: Float[np.ndarray, "778 3"],
    faces: Int[np.ndarray, "1538 3"],
    parts: Int[np.ndarray, "778"],
    hand: Skeleton,
) -> tuple[Float[np.ndarray, "778 3"], Int[np.ndarray, "1538 3"], Int[np.ndarray, "778"]]:
    """Permute the vertices: tips and wrist loop to their published ids, the rest bone by bone.

    Returns:
        Vertices, faces and parts under the new ids.
    """
    new_id = -np.ones(len(vertices), int)
    # Cap faces run against the boundary, so the published order meets the loop reversed.
    new_id[boundary_loop(faces)[::-1]] = WRIST_LOOP
    for row, finger in enumerate(FINGERS):
        ids = tip_vertices(finger)
        nearest = np.linalg.norm(vertices - hand.tips[row], axis=1).argsort(kind="stable")
        new_id[nearest[: len(ids)]] = ids
    free = np.setdiff1d(np.arange(len(vertices)), new_id)
    rank = np.argsort(_PART_ORDER)[parts]
    # Within a part from the wrist outwards; sorted by millimetres, ties broken by the old id.
    order = np.lexsort((-vertices[:, 0].round(6), rank))
    new_id[[v for v in order if new_id[v] < 0]] = free
    old = np.argsort(new_id)
    return vertices[old], new_id[faces], parts[old]
