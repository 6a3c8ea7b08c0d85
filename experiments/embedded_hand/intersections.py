"""Where a posed hand cuts through itself, and how deep.

*Part* of a face: the joint that most of its three vertices follow most (the lowest number where
all three differ). *Adjacent* parts: a joint and its parent, whose skin shares a bend and may crease
there. Two faces *intersect* if an edge of one passes through the other; faces with a common vertex
are not compared. *Depth* of a vertex in another finger: its distance to that finger's skin, if it
lies inside the surface that the finger's own faces make when closed by a fan across their rim.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.embedded_hand.skeleton import PARENTS
from mano_jax.topology import cap_faces

Vertices = Float[np.ndarray, "v 3"]
Faces = Int[np.ndarray, "f 3"]
Pairs = Int[np.ndarray, "p 2"]

PALM = 0


def vertex_parts(weights: Float[np.ndarray, "v 16"]) -> Int[np.ndarray, "v"]:
    """The joint that each vertex follows most."""
    return weights.argmax(1)


def face_parts(faces: Faces, weights: Float[np.ndarray, "v 16"]) -> Int[np.ndarray, "f"]:
    """The joint that most vertices of each face follow most."""
    votes = np.eye(16, dtype=int)[vertex_parts(weights)[faces]].sum(1)
    return votes.argmax(1)


def adjacent_parts() -> Bool[np.ndarray, "16 16"]:
    """True for a part with itself, its parent and its children."""
    adjacent = np.eye(16, dtype=bool)
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            adjacent[joint, parent] = adjacent[parent, joint] = True
    return adjacent


def finger_of(parts: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """0 for the palm, 1..5 for the fingers in MANO's row order."""
    return (parts + 2) // 3


@dataclass(frozen=True)
class SelfIntersectionTest:
    """Which faces of one mesh could meet, worked out once for all its poses.

    Attributes:
        faces: capped at the wrist.
        parts: part of each face.
        comparable: pairs (i < j) without a common vertex.
        distant: pairs of non-adjacent parts among them.
    """

    faces: Faces
    parts: Int[np.ndarray, "f"]
    comparable: Bool[np.ndarray, "f f"]
    distant: Bool[np.ndarray, "f f"]

    @classmethod
    def of(cls, faces: Faces, weights: Float[np.ndarray, "v 16"]) -> "SelfIntersectionTest":
        """Set up for an open mesh with these weights."""
        capped = np.vstack([faces, cap_faces(faces)])
        touches = np.zeros((len(capped), len(weights)), bool)
        np.put_along_axis(touches, capped, True, axis=1)
        shared = touches.astype(np.float32) @ touches.T.astype(np.float32) > 0
        comparable = np.triu(~shared, 1)
        parts = face_parts(capped, weights)
        distant = comparable & ~adjacent_parts()[parts[:, None], parts]
        return cls(capped, parts, comparable, distant)

    def pairs(self, vertices: Vertices, *, distant_only: bool = True) -> Pairs:
        """Intersecting pairs of faces; by default those of non-adjacent parts."""
        mask = self.distant if distant_only else self.comparable
        return intersecting_pairs(vertices, self.faces, mask)


def intersecting_pairs(vertices: Vertices, faces: Faces, mask: Bool[np.ndarray, "f f"]) -> Pairs:
    """Pairs of faces in `mask` of which an edge of one passes through the other."""
    corners = vertices[faces]
    low, high = corners.min(1), corners.max(1)
    overlap = mask.copy()
    for axis in range(3):
        overlap &= low[:, None, axis] <= high[None, :, axis]
        overlap &= low[None, :, axis] <= high[:, None, axis]
    pairs = np.argwhere(overlap)
    first, second = corners[pairs[:, 0]], corners[pairs[:, 1]]
    hit = np.zeros(len(pairs), bool)
    for edges, triangles in ((first, second), (second, first)):
        for k in range(3):
            hit |= segment_hits_triangle(edges[:, k], edges[:, (k + 1) % 3], triangles)
    return pairs[hit]


def segment_hits_triangle(
    start: Float[np.ndarray, "n 3"],
    end: Float[np.ndarray, "n 3"],
    triangle: Float[np.ndarray, "n 3 3"],
) -> Bool[np.ndarray, "n"]:
    """Row by row; parallel ones never hit (after Moller and Trumbore, 1997)."""
    direction = end - start
    side_b, side_c = triangle[:, 1] - triangle[:, 0], triangle[:, 2] - triangle[:, 0]
    across = np.cross(direction, side_c)
    determinant = (side_b * across).sum(1)
    usable = np.abs(determinant) > 1e-18
    scale = 1 / np.where(usable, determinant, 1)
    offset = start - triangle[:, 0]
    u = (offset * across).sum(1) * scale
    lifted = np.cross(offset, side_b)
    v = (direction * lifted).sum(1) * scale
    t = (side_c * lifted).sum(1) * scale
    return usable & (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= 0) & (t <= 1)


def finger_depths(
    vertices: Vertices, faces: Faces, weights: Float[np.ndarray, "v 16"]
) -> Float[np.ndarray, "v"]:
    """How deep each vertex lies inside a finger other than its own, metres; 0 outside all.

    The palm's vertices count as well, except those within one edge of the finger's own faces.
    """
    of_face, of_vertex = finger_of(face_parts(faces, weights)), finger_of(vertex_parts(weights))
    depths = np.zeros(len(vertices))
    for finger in range(1, 6):
        own = faces[of_face == finger]
        beside = np.isin(faces, own).any(1)
        queries = np.setdiff1d(np.flatnonzero(of_vertex != finger), faces[beside])
        low, high = vertices[own].min((0, 1)), vertices[own].max((0, 1))
        queries = queries[((vertices[queries] > low) & (vertices[queries] < high)).all(1)]
        closed = np.concatenate([vertices[own], _rim_fan(vertices, own)])
        inside = queries[winding_numbers(vertices[queries], closed) > 0.5]
        if len(inside):
            reach = distance_to_triangles(vertices[inside], vertices[own])
            depths[inside] = np.maximum(depths[inside], reach)
    return depths


def _rim_fan(vertices: Vertices, faces: Faces) -> Float[np.ndarray, "e 3 3"]:
    """Triangles from the open edges of some faces to the middle of those edges."""
    edges = np.concatenate([faces[:, [k, (k + 1) % 3]] for k in range(3)])
    present = set(map(tuple, edges.tolist()))
    rim = np.array([(v, u) for u, v in present if (v, u) not in present])
    ends = vertices[rim]
    middle = np.broadcast_to(ends.mean((0, 1)), (len(rim), 1, 3))
    return np.concatenate([ends, middle], axis=1)


def winding_numbers(
    points: Float[np.ndarray, "n 3"], triangles: Float[np.ndarray, "t 3 3"]
) -> Float[np.ndarray, "n"]:
    """How often a surface encloses each point (solid angles after Van Oosterom and Strackee)."""
    a, b, c = (triangles[None, :, k] - points[:, None] for k in range(3))
    la, lb, lc = (np.linalg.norm(x, axis=2) for x in (a, b, c))
    volume = (a * np.cross(b, c)).sum(2)
    base = la * lb * lc + (a * b).sum(2) * lc + (b * c).sum(2) * la + (c * a).sum(2) * lb
    return np.arctan2(volume, base).sum(1) / (2 * np.pi)


def distance_to_triangles(
    points: Float[np.ndarray, "n 3"], triangles: Float[np.ndarray, "t 3 3"]
) -> Float[np.ndarray, "n"]:
    """Least distance of each point to any of the triangles."""
    a, b, c = (triangles[None, :, k] for k in range(3))
    p = points[:, None]
    nearest = np.min([_squared_to_segment(p, *e) for e in ((a, b), (b, c), (c, a))], axis=0)
    normal = np.cross(b - a, c - a)
    above = [(np.cross(v - u, p - u) * normal).sum(2) >= 0 for u, v in ((a, b), (b, c), (c, a))]
    height = ((p - a) * normal).sum(2) ** 2 / np.maximum((normal**2).sum(2), 1e-30)
    return np.sqrt(np.where(np.all(above, axis=0), height, nearest).min(1))


def _squared_to_segment(p: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    axis = b - a
    h = np.clip(((p - a) * axis).sum(2) / np.maximum((axis**2).sum(2), 1e-30), 0, 1)
    return ((p - a - h[..., None] * axis) ** 2).sum(2)
