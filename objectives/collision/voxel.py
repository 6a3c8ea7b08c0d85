"""The published method's collision: a grid of depths around each hand, sampled at the other's.

IHMR takes it from Jiang et al. ("Coherent reconstruction of multiple humans from a single image",
CVPR 2020): 32^3 cells over a hand's enlarged box hold the depth inside that hand, and the other
hand's vertices read it by trilinear interpolation. It is here to be compared with, in two forms:

registered  the grid is read where it was made, and signs are winding numbers;
published   as the released kernel does it: cells are made half a cell away from where they are
            read, a vertex is scaled by its own hand's box instead of the box of the hand it is
            in, and the sign is the parity of the crossings on the way to the box's lowest
            corner, through the open wrist too.

Gradients go to the vertices that read, as published; none to the hand that made the grid.
"""

from dataclasses import dataclass, field
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mano_jax.model import Hands
from objectives.collision.energies import box_scale
from objectives.collision.geometry import in_box, squared_distance, winding_number

CELLS: Final = 32
"""Cells along each side of the grid."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VoxelField:
    """Depth inside each hand on a grid around it."""

    phi: Float[Array, "*batch 2 G G G"]
    """Depth over the hand's scale, by x, y, z; zero outside."""
    centre: Float[Array, "*batch 2 3"]
    """Middle of the hand's box, metres."""
    scale: Float[Array, "*batch 2"]
    """Half the grid's side, metres."""
    published: bool = field(metadata={"static": True}, default=False)
    """Read it as the released program does."""


def search_voxel(
    hands: Hands,
    vertices: Float[Array, "*batch 2 V 3"],
    active: Bool[Array, "*batch"],
    *,
    published: bool = False,
) -> VoxelField:
    """Fill both hands' grids in the frames that need it.

    Args:
        hands: the hand model.
        vertices: both hands in one frame, metres.
        active: frames to search; in the others both grids are zero.
        published: as the released program does it, defects included.
    """
    batch = vertices.shape[:-3]
    flat = vertices.reshape(-1, *vertices.shape[-2:])
    others = vertices[..., ::-1, :, :].reshape(flat.shape)
    hand = jnp.arange(flat.shape[0], dtype=jnp.int32) % 2
    wanted = jnp.repeat(active.reshape(-1), 2) & in_box(others, flat).any(axis=-1)

    def one(inputs):
        points, hand, wanted = inputs
        triangles, caps = points[hands.faces[hand]], points[hands.cap_faces[hand]]
        return jax.lax.cond(
            wanted,
            lambda: depth_grid(triangles, caps, published=published),
            lambda: jnp.zeros((CELLS,) * 3, points.dtype),
        )

    phi = jax.lax.map(one, (flat, hand, wanted))
    return VoxelField(
        phi=phi.reshape(*batch, 2, CELLS, CELLS, CELLS),
        centre=box_centre(vertices),
        scale=box_scale(vertices),
        published=published,
    )


def voxel_depth(
    vertices: Float[Array, "*batch 2 V 3"], grids: VoxelField
) -> Float[Array, "*batch 2 V"]:
    """Depth of each vertex in the other hand, metres, read from that hand's grid."""
    grids = jax.lax.stop_gradient(grids)
    scale = grids.scale if grids.published else grids.scale[..., ::-1]
    local = (vertices - grids.centre[..., ::-1, None, :]) / scale[..., None, None]
    flat = grids.phi[..., ::-1, :, :, :].reshape(-1, *(CELLS,) * 3)
    read = jax.vmap(sample_grid)(flat, local.reshape(-1, *local.shape[-2:]))
    return read.reshape(local.shape[:-1]) * scale[..., None]


def depth_grid(
    triangles: Float[Array, "F 3 3"], caps: Float[Array, "C 3 3"], *, published: bool
) -> Float[Array, "G G G"]:
    """Depth inside one mesh over its scale, at the cells of the grid around it."""
    corners = triangles.reshape(-1, 3)
    centre, scale = box_centre(corners), box_scale(corners)
    # The kernel's cells lie at -1 + (i + 1/2) 2/31; its reader expects them at -1 + i 2/31.
    start = 0.5 if published else 0.0
    line = -1 + (jnp.arange(CELLS, dtype=triangles.dtype) + start) * (2 / (CELLS - 1))
    y, z = jnp.meshgrid(line, line, indexing="ij")
    lowest = centre - scale

    def slab(x: Array) -> Array:
        grid = jnp.stack([jnp.broadcast_to(x, y.shape), y, z], axis=-1).reshape(-1, 3)
        points = centre + scale * grid
        if published:
            inside = _crossings_towards(points, lowest, triangles) % 2 == 1
        else:
            inside = winding_number(points, triangles, caps) > 0.5
        distance = jnp.sqrt(jnp.min(squared_distance(points, triangles), axis=-1))
        return jnp.where(inside, distance / scale, 0.0).reshape(y.shape)

    return jax.lax.map(slab, line)


def sample_grid(phi: Float[Array, "G G G"], local: Float[Array, "V 3"]) -> Float[Array, "V"]:
    """Trilinear interpolation at coordinates in [-1, 1]; zero beyond the grid."""
    position = (local + 1) * (0.5 * (CELLS - 1))
    first = jnp.floor(position)
    fraction = position - first
    first = first.astype(jnp.int32)
    total = jnp.zeros(local.shape[0], phi.dtype)
    for corner in range(8):
        step = jnp.array([corner >> 2 & 1, corner >> 1 & 1, corner & 1], jnp.int32)
        cell = first + step
        weight = jnp.prod(jnp.where(step == 1, fraction, 1 - fraction), axis=-1)
        there = jnp.all((cell >= 0) & (cell < CELLS), axis=-1)
        cell = jnp.clip(cell, 0, CELLS - 1)
        total += jnp.where(there, weight * phi[cell[:, 0], cell[:, 1], cell[:, 2]], 0.0)
    return total


def box_centre(vertices: Float[Array, "*batch V 3"]) -> Float[Array, "*batch 3"]:
    """Middle of the axis-aligned box."""
    return 0.5 * (vertices.min(axis=-2) + vertices.max(axis=-2))


def _crossings_towards(points: Array, end: Array, triangles: Array) -> Array:
    """Triangles that the segments from points to one end cross (Moeller and Trumbore, 1997)."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    edge_1, edge_2 = _components(b - a), _components(c - a)
    direction = [x[:, None] for x in _components(end - points)]
    offset = [x[:, None] - y for x, y in zip(_components(points), _components(a), strict=True)]
    p = _cross(direction, edge_2)
    determinant = _dot(p, edge_1)
    inverse = 1 / jnp.where(determinant != 0, determinant, 1)
    q = _cross(offset, edge_1)
    u, v = _dot(offset, p) * inverse, _dot(q, direction) * inverse
    t = _dot(q, edge_2) * inverse
    crossed = (determinant != 0) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= 0) & (t <= 1)
    return jnp.sum(crossed, axis=-1)


def _components(vectors: Array) -> list[Array]:
    return [vectors[..., i] for i in range(3)]


def _cross(a: list[Array], b: list[Array]) -> list[Array]:
    return [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]


def _dot(a: list[Array], b: list[Array]) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
