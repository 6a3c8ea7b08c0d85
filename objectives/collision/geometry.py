"""Points against triangles: winding numbers, closest faces, barycentric coordinates.

Sign: the generalised winding number of the open mesh, w > 1/2 (Jacobson et al., "Robust inside-
outside segmentation using generalized winding numbers", SIGGRAPH 2013), right also where a hand
intersects itself. It is computed as the signed crossings of a ray with the mesh closed by a cap,
which are integers, minus the cap's own solid angle over 4 pi, so it takes arctangents for the
cap's few faces only.

Vertices at and behind the wrist opening of the other hand: the winding number falls smoothly
from 1 to 0 along the way out of the opening and passes 1/2 at the cap, so the sign jumps there
and the depth with it, while the distance is to the real faces always. A forearm that slides into
the opening is therefore seen as deep as the skin around it is far.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def winding_number(
    points: Float[Array, "Q 3"], triangles: Float[Array, "F 3 3"], caps: Float[Array, "C 3 3"]
) -> Float[Array, "Q"]:
    """Generalised winding number of an open mesh.

    Args:
        points: where.
        triangles: corners of the open mesh's faces.
        caps: corners of faces that close it.
    """
    crossings = ray_crossings(points, triangles)
    return crossings.astype(points.dtype) + cap_winding(points, caps)


def ray_crossings(points: Float[Array, "Q 3"], triangles: Float[Array, "F 3 3"]) -> Int[Array, "Q"]:
    """Signed crossings of the ray from each point along +z with the triangles."""
    return _ray_crossings(points, triangles, signed_volume(points, triangles))


def cap_winding(points: Float[Array, "Q 3"], caps: Float[Array, "C 3 3"]) -> Float[Array, "Q"]:
    """What a mesh's cap adds to the crossings of a ray: its crossings minus its solid angle."""
    volume = _perturbed(signed_volume(points, caps), caps)
    angle = jnp.sum(solid_angle(points, caps, volume), axis=-1)
    return _ray_crossings(points, caps, volume).astype(points.dtype) - angle / (4 * jnp.pi)


def in_box(
    points: Float[Array, "*batch Q 3"], target: Float[Array, "*batch V 3"], band: float = 0.0
) -> Bool[Array, "*batch Q"]:
    """Whether points lie in the axis-aligned box of other points, grown by the band."""
    low = target.min(axis=-2, keepdims=True)
    high = target.max(axis=-2, keepdims=True)
    if band:
        # A little more than the band, that rounding loses no point of it.
        low, high = low - 1.001 * band, high + 1.001 * band
    return jnp.all((points >= low) & (points <= high), axis=-1)


def barycentric_of_closest(
    points: Float[Array, "*batch 3"], triangles: Float[Array, "*batch 3 3"]
) -> Float[Array, "*batch 3"]:
    """Barycentric coordinates of the point of each triangle closest to each point."""
    a, b, c = triangles[..., 0, :], triangles[..., 1, :], triangles[..., 2, :]
    u, v = _plane_coordinates(points - a, b - a, c - a)
    within = (u >= 0) & (v >= 0) & (u + v <= 1)
    t_ab, d_ab = _closest_on_segment(points, a, b)
    t_bc, d_bc = _closest_on_segment(points, b, c)
    t_ca, d_ca = _closest_on_segment(points, c, a)
    zero = jnp.zeros_like(t_ab)
    on_ab = jnp.stack([1 - t_ab, t_ab, zero], axis=-1)
    on_bc = jnp.stack([zero, 1 - t_bc, t_bc], axis=-1)
    on_ca = jnp.stack([t_ca, zero, 1 - t_ca], axis=-1)
    edge = jnp.where((d_bc < d_ab)[..., None], on_bc, on_ab)
    edge = jnp.where((d_ca < jnp.minimum(d_ab, d_bc))[..., None], on_ca, edge)
    return jnp.where(within[..., None], jnp.stack([1 - u - v, u, v], axis=-1), edge)


def is_above(
    points: Float[Array, "*batch 3"], triangles: Float[Array, "*batch 3 3"]
) -> Bool[Array, "*batch"]:
    """Whether each point is on the outer side of its triangle's plane."""
    a, b, c = triangles[..., 0, :], triangles[..., 1, :], triangles[..., 2, :]
    return _dot(jnp.cross(b - a, c - a), points - a) > 0


def _ray_crossings(points: Array, triangles: Array, volume: Array) -> Array:
    """Signed crossings of the ray from each point along +z, summed over the triangles.

    Seen along z a triangle is a directed loop; it is hit when the point's 2D winding number w in
    it is not zero, and hit ahead of the point when w and the signed volume agree. The 2D number
    counts edges that cross the half-line along +x. Each edge is tested from its lower to its
    upper end, and by a half-open interval of y, so the two triangles that share it evaluate the
    very same expression: a ray through an edge or a corner is never counted twice or lost, with
    rounding and fused operations too.
    """
    x, y = points[:, None, 0], points[:, None, 1]
    winding = jnp.zeros((points.shape[0], triangles.shape[0]), jnp.int32)
    for i in range(3):
        start, end = triangles[:, i], triangles[:, (i + 1) % 3]
        upward = start[:, 1] < end[:, 1]
        low = jnp.where(upward[:, None], start, end)
        high = jnp.where(upward[:, None], end, start)
        straddles = (low[:, 1] <= y) & (y < high[:, 1])
        left = (high[:, 0] - low[:, 0]) * (y - low[:, 1]) > (x - low[:, 0]) * (
            high[:, 1] - low[:, 1]
        )
        winding += jnp.where(straddles & left, jnp.where(upward, 1, -1), 0)
    ahead = (winding > 0) == (volume > 0)
    return jnp.sum(jnp.where(ahead, winding, 0), axis=-1, dtype=jnp.int32)


def signed_volume(points: Array, triangles: Array) -> Array:
    """Six times each tetrahedron's volume, n . (a - q): positive where q is behind the face."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    n = jnp.cross(b - a, c - a)
    return (
        n[:, 0] * (a[:, 0] - points[:, None, 0])
        + n[:, 1] * (a[:, 1] - points[:, None, 1])
        + n[:, 2] * (a[:, 2] - points[:, None, 2])
    )


def _perturbed(volume: Array, triangles: Array) -> Array:
    """Decide the sign of a zero volume as if the point lay a little further along +x, then +y.

    That is how the ray test decides, so a point in the plane of a cap gets one consistent answer.
    """
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    n = jnp.cross(b - a, c - a)
    tie = jnp.where(n[:, 0] != 0, -n[:, 0], -n[:, 1])
    return jnp.where(volume == 0, jnp.sign(tie) * jnp.finfo(volume.dtype).tiny, volume)


def solid_angle(points: Array, triangles: Array, volume: Array) -> Array:
    """Signed solid angle (van Oosterom and Strackee, 1983), from the same volume as the rays.

    The two must flip together where a point passes through a cap.
    """
    a, b, c = (triangles[None, :, i] - points[:, None] for i in range(3))
    la, lb, lc = (jnp.sqrt(_dot(p, p)) for p in (a, b, c))
    denominator = la * lb * lc + _dot(a, b) * lc + _dot(b, c) * la + _dot(c, a) * lb
    return 2 * jnp.arctan2(volume, denominator)


def squared_between(
    a: Float[Array, "*batch A 3"], b: Float[Array, "*batch B 3"]
) -> Float[Array, "*batch A B"]:
    """Squared distances of points to points."""
    x, y, z = ((a[..., :, None, i] - b[..., None, :, i]) ** 2 for i in range(3))
    return x + y + z


def squared_distance(points: Array, triangles: Array) -> Array:
    """Squared distance of each point to each triangle, (Q, F)."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    offset = [points[:, None, i] - a[:, i] for i in range(3)]
    ab, ac = b - a, c - a
    n = jnp.cross(ab, ac)
    area = _dot(n, n)
    inverse = 1 / jnp.where(area > 0, area, 1)
    # Dual basis of (ab, ac) in the plane: two dot products give the barycentric coordinates.
    dual_u = jnp.cross(ac, n) * inverse[:, None]
    dual_v = jnp.cross(n, ab) * inverse[:, None]
    u, v = _dot_terms(dual_u, offset), _dot_terms(dual_v, offset)
    height = _dot_terms(n * jnp.sqrt(inverse)[:, None], offset)
    within = (u >= 0) & (v >= 0) & (u + v <= 1) & (area > 0)

    from_b = [points[:, None, i] - b[:, i] for i in range(3)]
    edges = jnp.minimum(_squared_to_segment(offset, ab), _squared_to_segment(offset, ac))
    edges = jnp.minimum(edges, _squared_to_segment(from_b, c - b))
    return jnp.where(within, height * height, edges)


def _squared_to_segment(offset: list[Array], edge: Array) -> Array:
    length = _dot(edge, edge)
    t = _dot_terms(edge / jnp.where(length > 0, length, 1)[:, None], offset)
    t = jnp.clip(t, 0, 1)
    dx, dy, dz = (offset[i] - t * edge[:, i] for i in range(3))
    return dx * dx + dy * dy + dz * dz


def _closest_on_segment(point: Array, start: Array, end: Array) -> tuple[Array, Array]:
    """Parameter of the closest point, and its squared distance."""
    edge = end - start
    length = _dot(edge, edge)
    t = jnp.clip(_dot(point - start, edge) / jnp.where(length > 0, length, 1), 0, 1)
    offset = point - start - t[..., None] * edge
    return t, _dot(offset, offset)


def _plane_coordinates(offset: Array, ab: Array, ac: Array) -> tuple[Array, Array]:
    n = jnp.cross(ab, ac)
    area = _dot(n, n)
    safe = jnp.where(area > 0, area, 1)
    u, v = _dot(jnp.cross(ac, n), offset) / safe, _dot(jnp.cross(n, ab), offset) / safe
    # A triangle without area has no inside: send the answer to its edges.
    return jnp.where(area > 0, u, -1), v


def _dot(a: Array, b: Array) -> Array:
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]


def _dot_terms(vector: Array, offset: list[Array]) -> Array:
    return vector[:, 0] * offset[0] + vector[:, 1] * offset[1] + vector[:, 2] * offset[2]
