"""Volumes, overlaps and surface distances of hands as solids.

A hand's solid is what its mesh encloses once the wrist is closed by its cap; where the hand runs
into itself it is counted once. It is found without a mesh boolean: a lattice of lines along z
meets the surface in points that are computed exactly, and between them a line is inside where its
winding number is positive.

    triangles -> crossings of the lines -> inside intervals -> lengths times the lattice's cell

Along z a volume is exact, across it a sum over the lattice, without bias. Or only the cells of a
cubic grid whose centres are inside are counted: that is voxelisation.
"""

from dataclasses import dataclass
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from mano_jax.model import Hands
from objectives.collision.geometry import squared_distance

VOXEL_PITCH: Final = 0.005
"""DIR measures interpenetration with voxels of 0.5 cm (metres)."""

FINE_PITCH: Final = 0.001
"""Distance of the lines of a fine volume, metres."""


@dataclass(frozen=True)
class Overlap:
    """Volumes of two solids, cubic metres."""

    first: float
    """Of the first."""
    second: float
    """Of the second."""
    common: float
    """Of what is inside both."""

    @property
    def iou(self) -> float:
        """Intersection over union; NaN if both are empty."""
        union = self.first + self.second - self.common
        return self.common / union if union > 0 else float("nan")


def closed_faces(hands: Hands) -> Int[np.ndarray, "2 F 3"]:
    """The faces of both hands with those that close the wrist."""
    return np.concatenate([np.asarray(hands.faces), np.asarray(hands.cap_faces)], axis=1)


def overlap(
    first: Float[ArrayLike, "F 3 3"],
    second: Float[ArrayLike, "G 3 3"],
    *,
    pitch: float = FINE_PITCH,
    voxels: bool = False,
) -> Overlap:
    """Volumes of two solids and of their intersection.

    Lines and cells stand at half-integer multiples of the pitch, so the answer does not depend
    on what else is there.

    Args:
        first: corners of a closed surface's triangles, metres, counter-clockwise from outside.
        second: the same of another one, in the same frame.
        pitch: distance of the lines, or side of a voxel, metres.
        voxels: count voxels whose centre is inside instead of measuring along the lines.
    """
    everywhere = np.full(2, -np.inf), np.full(2, np.inf)
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return _overlap(first, second, everywhere, pitch, voxels)


def interpenetration_volume(
    first: Float[ArrayLike, "F 3 3"],
    second: Float[ArrayLike, "G 3 3"],
    *,
    pitch: float = VOXEL_PITCH,
    voxels: bool = True,
) -> float:
    """Volume that two solids share, cm^3.

    DIR (section 4.5) voxelises the hands with voxels of 0.5 cm. It does not say more and its
    released program has no such part, so: voxels whose centre is inside both.

    Args:
        first: corners of a closed surface's triangles, metres.
        second: the same of another one, in the same frame.
        pitch: side of a voxel, or distance of the lines, metres.
        voxels: count voxels; else measure along lines, which is nearly exact at 1 mm.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    low = np.maximum(first.min((0, 1)), second.min((0, 1)))
    high = np.minimum(first.max((0, 1)), second.max((0, 1)))
    if np.any(low > high):
        return 0.0
    # Only lines through both boxes can be inside both.
    return 1e6 * _overlap(first, second, (low[:2], high[:2]), pitch, voxels).common


def _overlap(
    first: np.ndarray,
    second: np.ndarray,
    window: tuple[np.ndarray, np.ndarray],
    pitch: float,
    voxels: bool,
) -> Overlap:
    """Volumes over those lines that stand between two corners of the plane."""
    column_a, height_a, step_a = _crossings(first, window, pitch)
    column_b, height_b, step_b = _crossings(second, window, pitch)
    column = np.concatenate([column_a, column_b])
    height = np.concatenate([height_a, height_b]) / pitch
    if voxels:
        # The centres between two heights are the half integers in the half-open interval.
        height = np.ceil(height - 0.5)
    order = np.lexsort((height, column[:, 1], column[:, 0]))
    # The steps of a line over a closed surface cancel: one sum runs through all lines.
    zeros_a, zeros_b = np.zeros(len(step_a), int), np.zeros(len(step_b), int)
    in_a = np.cumsum(np.concatenate([step_a, zeros_b])[order])[:-1] > 0
    in_b = np.cumsum(np.concatenate([zeros_a, step_b])[order])[:-1] > 0
    length = np.diff(height[order])
    volumes = (np.sum(length[inside]) for inside in (in_a, in_b, in_a & in_b))
    return Overlap(*(float(volume) * pitch**3 for volume in volumes))


def _crossings(
    triangles: np.ndarray, window: tuple[np.ndarray, np.ndarray], pitch: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where lines along z meet triangles: line (i, j), height, and +1 going in or -1 going out.

    Line (i, j) stands at ((i + 1/2) pitch, (j + 1/2) pitch). An edge is tested from its lower to
    its upper end over a half-open interval, so that the two triangles that share it agree to the
    last bit: no line slips through, and none is counted twice.
    """
    low, high = triangles.min(1), triangles.max(1)
    first = np.ceil(np.maximum(low[:, :2], window[0]) / pitch - 0.5).astype(int)
    last = np.floor(np.minimum(high[:, :2], window[1]) / pitch - 0.5).astype(int)
    sides = np.maximum(last - first + 1, 0)
    counts = sides[:, 0] * sides[:, 1]
    triangle = np.repeat(np.arange(len(triangles)), counts)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    width = sides[triangle, 1]
    line = first[triangle] + np.stack([number // width, number % width], axis=-1)
    x, y = ((line + 0.5) * pitch).T

    winding = np.zeros(len(triangle), int)
    for i in range(3):
        start, end = triangles[:, i, :2], triangles[:, (i + 1) % 3, :2]
        upward = start[:, 1] < end[:, 1]
        x0, y0 = np.where(upward[:, None], start, end)[triangle].T
        x1, y1 = np.where(upward[:, None], end, start)[triangle].T
        straddles = (y0 <= y) & (y < y1)
        left = (x1 - x0) * (y - y0) > (x - x0) * (y1 - y0)
        winding += np.where(straddles & left, np.where(upward[triangle], 1, -1), 0)

    met = winding != 0
    triangle, line, x, y, winding = (v[met] for v in (triangle, line, x, y, winding))
    a = triangles[:, 0]
    normal = np.cross(triangles[:, 1] - a, triangles[:, 2] - a)
    # A triangle that a line goes through, seen along it, has an area: its normal has a z.
    slope = (normal[:, :2] / np.where(normal[:, 2:] == 0, 1.0, normal[:, 2:]))[triangle]
    a = a[triangle]
    height = a[:, 2] - slope[:, 0] * (x - a[:, 0]) - slope[:, 1] * (y - a[:, 1])
    # A triangle seen nearly edge-on has a slope of mere rounding: its corners bound its height.
    height = np.clip(height, low[triangle, 2], high[triangle, 2])
    return line, height, -winding


def chamfer_l1(
    first: Float[Array, "*batch V 3"],
    second: Float[Array, "*batch V 3"],
    faces: Int[np.ndarray, "F 3"],
) -> Float[Array, "*batch"]:
    """Chamfer-L1 distance of two surfaces with the same faces, in their unit.

    Half the mean distance of the first surface's points to the second surface, plus half of the
    reverse (Occupancy Networks, Mescheder et al., CVPR 2019, whose evaluation Im2Hands uses). The
    means are over area by quadrature at the middles of the edges, and distances go to the
    surface itself: what the published programs tend to, which draw 100,000 points on each
    surface and take the nearest of them.

    Args:
        first: vertices.
        second: vertices of the other surface.
        faces: triangles of both; a hand's real ones, without the cap.
    """
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]], axis=-1).reshape(-1, 2)
    edges, edge_of_face = np.unique(edges, axis=0, return_inverse=True)
    topology = faces, edges, edge_of_face.reshape(-1, 3)
    return _chamfer(first, second, *(jnp.asarray(x, jnp.int32) for x in topology))


@jax.jit
def _chamfer(first: Array, second: Array, faces: Array, edges: Array, edge_of_face: Array) -> Array:
    def one_way(a: Array, b: Array) -> Array:
        """Mean distance of a's points to b, weighted by area."""
        middles, target = 0.5 * (a[edges[:, 0]] + a[edges[:, 1]]), b[faces]
        distance = jnp.sqrt(
            jax.lax.map(
                lambda point: jnp.min(squared_distance(point[None], target)),
                middles,
                batch_size=128,
            )
        )
        corners = a[faces]
        normal = jnp.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        area = jnp.linalg.norm(normal, axis=-1)
        # Middles of edges integrate quadratic functions over a triangle exactly.
        return jnp.sum(area * distance[edge_of_face].mean(axis=-1)) / jnp.sum(area)

    def one_pair(pair: tuple[Array, Array]) -> Array:
        return 0.5 * (one_way(*pair) + one_way(*pair[::-1]))

    # One pair at a time: all points against all faces is as much as a processor's cache holds.
    flat = (first.reshape(-1, *first.shape[-2:]), second.reshape(-1, *second.shape[-2:]))
    return jax.lax.map(one_pair, flat).reshape(first.shape[:-2])
