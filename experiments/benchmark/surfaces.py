"""Two surfaces that come together: height maps, first contact, depth and distance."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from experiments.benchmark.pose import unit
from mano_jax.joint_orders import MANO16
from mano_jax.model import Hands
from objectives.collision import penetration_depth, search_exact, surface_distance


@dataclass(frozen=True)
class Surface:
    """What both hands' surfaces have in common, by vertex numbers."""

    faces: Int[np.ndarray, "2 F 3"]
    edges: Int[np.ndarray, "E 2"]
    parts: Int[np.ndarray, "V"]
    """The joint that each vertex follows most."""
    point_parts: Int[np.ndarray, "P"]
    """The same for the points of `points`."""
    segments: Int[np.ndarray, "16"]
    """What each joint moves: 0 the palm, 1 to 3 a finger's segments."""
    rim: Int[np.ndarray, "L"]
    """The wrist opening's vertices."""
    at_rim: Bool[np.ndarray, "P"]
    """Which of the points of `points` they are."""

    @classmethod
    def of(cls, hands: Hands) -> "Surface":
        """The surface of a hand model."""
        faces = np.asarray(hands.faces)
        pairs = np.concatenate([faces[0][:, [0, 1]], faces[0][:, [1, 2]], faces[0][:, [2, 0]]])
        edges = np.unique(np.sort(pairs, axis=1), axis=0)
        parts = np.asarray(hands.lbs_weights[0]).argmax(axis=1)
        rim = np.unique(np.asarray(hands.cap_faces[0]))
        return cls(
            faces=faces,
            edges=edges,
            parts=parts,
            point_parts=np.concatenate([parts, parts[edges[:, 0]], parts[faces[0][:, 0]]]),
            segments=np.array([0 if name == "wrist" else int(name[-1]) for name in MANO16]),
            rim=rim,
            at_rim=np.isin(np.arange(len(parts) + len(edges) + len(faces[0])), rim),
        )

    def points(self, vertices: Float[np.ndarray, "V 3"], hand: int) -> Float[np.ndarray, "P 3"]:
        """Vertices, edge midpoints, face centres, in this order: points some 2 mm apart."""
        edges, faces = vertices[self.edges].mean(1), vertices[self.faces[hand]].mean(1)
        return np.concatenate([vertices, edges, faces])


def rough_slide(
    fixed: np.ndarray, moving: np.ndarray, direction: np.ndarray, cell: float = 0.003
) -> float:
    """How far `moving` can go along `direction` before it meets `fixed`: height maps of both."""
    axes = _slide_axes(direction)[[1, 2, 0]]
    # A row a coordinate: over the long axis NumPy finds the extremes twenty times as fast.
    near, far = (np.ascontiguousarray((points @ axes.T).T) for points in (moving, fixed))
    low = np.minimum(near[:2].min(1), far[:2].min(1))
    size = np.ceil((np.maximum(near[:2].max(1), far[:2].max(1)) - low) / cell).astype(int) + 1
    front = np.full(size[0] * size[1], -np.inf)
    back = np.full(size[0] * size[1], np.inf)
    for p, height, extreme in ((near, front, np.maximum), (far, back, np.minimum)):
        column, row = (np.floor((p[i] - low[i]) / cell).astype(int) for i in range(2))
        extreme.at(height, column * size[1] + row, p[2])
    travel = (back - front).min()
    # Hands that pass each other are far apart for any score.
    return float(travel) if np.isfinite(travel) else 0.0


def exact_slide(hands: Hands, right: np.ndarray, left: np.ndarray, direction: np.ndarray) -> float:
    """How far the left hand's points can go before triangles and points meet; inf if never.

    The points are the vertices, in front, and others of the surface; the left hand must start
    wholly before the right one. Edges that meet between two points are not seen: they may overlap
    by a few hundredths of a millimetre, far less than the gap left afterwards.
    """
    axes = _slide_axes(direction)
    turned = (jnp.asarray(points @ axes.T, jnp.float32) for points in (right, left))
    return float(_first_contact(hands, *turned))


def depth_and_distance(
    hands: Hands, vertices: Float[np.ndarray, "2 V 3"]
) -> tuple[Float[np.ndarray, "2 V"], Float[np.ndarray, "2 V"]]:
    """Depth and unsigned distance of each vertex to the other hand, metres, exactly."""
    measured = _measured(hands, jnp.asarray(vertices[None], jnp.float32))
    depth, distance = (np.asarray(x[0], np.float64) for x in measured)
    return depth, distance


def _slide_axes(direction: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """Rows: the direction and two axes across it."""
    across = unit(_cross(direction, np.eye(3)[np.abs(direction).argmin()]))
    return np.stack([direction, across, _cross(direction, across)])


def _cross(a: Float[np.ndarray, "3"], b: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3"]:
    """Of two vectors: `np.cross` takes ten times as long over the shapes it could be given."""
    return np.array(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    )


@jax.jit
def _first_contact(
    hands: Hands, right: Float[Array, "P 3"], left: Float[Array, "P 3"]
) -> Float[Array, ""]:
    forth = _heights_over(left, right[hands.faces[0]])
    back = _heights_over(right, left[hands.faces[1]])
    return jnp.minimum(
        jnp.min(jnp.where(jnp.isnan(forth), jnp.inf, forth)),
        jnp.min(jnp.where(jnp.isnan(back), jnp.inf, -back)),
    )


def _heights_over(
    points: Float[Array, "Q 3"], triangles: Float[Array, "F 3 3"]
) -> Float[Array, "Q F"]:
    """Along the first axis, from each point to each triangle it would hit; NaN where it misses."""
    (ay, az), (by, bz), (cy, cz) = ((triangles[:, i, 1], triangles[:, i, 2]) for i in range(3))
    y, z = points[:, None, 1], points[:, None, 2]
    area = (by - ay) * (cz - az) - (cy - ay) * (bz - az)
    safe = jnp.where(area == 0, 1.0, area)
    first = ((by - y) * (cz - z) - (cy - y) * (bz - z)) / safe
    second = ((cy - y) * (az - z) - (ay - y) * (cz - z)) / safe
    third = 1 - first - second
    height = first * triangles[:, 0, 0] + second * triangles[:, 1, 0] + third * triangles[:, 2, 0]
    hit = (first >= 0) & (second >= 0) & (third >= 0) & (area != 0)
    return jnp.where(hit, height - points[:, None, 0], jnp.nan)


@jax.jit
def _measured(hands: Hands, vertices: Array) -> tuple[Array, Array]:
    found = search_exact(hands, vertices, jnp.ones(1, bool), band=math.inf)
    return penetration_depth(hands, vertices, found), surface_distance(hands, vertices, found)
