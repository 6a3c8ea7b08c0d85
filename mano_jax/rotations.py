"""Rotations: axis-angle, matrix, quaternion and 6D, in both directions.

Every function accepts any leading batch shape and has finite values and gradients everywhere,
at the identity and at half turns too. Axis-angle vectors are in radians; quaternions are
(w, x, y, z); matrices act on column vectors; 6D is the first column followed by the second
(Zhou et al., "On the continuity of rotation representations in neural networks", CVPR 2019).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Below this squared angle the series of sin(a)/a and its kin are exact to float32.
_SMALL_SQUARED_ANGLE = 1e-6


def axis_angle_to_matrix(axis_angle: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """Rodrigues' formula, R = I + (sin a / a) K + ((1 - cos a) / a^2) K^2."""
    x, y, z = axis_angle[..., 0], axis_angle[..., 1], axis_angle[..., 2]
    squared = x * x + y * y + z * z
    small = squared < _SMALL_SQUARED_ANGLE
    # The unused branch of a `where` still sends its gradient, and sqrt'(0) would make it NaN.
    safe_squared = jnp.where(small, 1.0, squared)
    angle = jnp.sqrt(safe_squared)
    # By the half angle: 1 - cos a = 2 sin^2(a/2) does not cancel, and one sine serves both.
    sine, cosine = jnp.sin(0.5 * angle), jnp.cos(0.5 * angle)
    sine_ratio = jnp.where(small, 1.0 - squared / 6.0, 2.0 * sine * cosine / angle)
    cosine_ratio = jnp.where(small, 0.5 - squared / 24.0, 2.0 * sine * sine / safe_squared)
    sx, sy, sz = sine_ratio * x, sine_ratio * y, sine_ratio * z
    cx, cy, cz = cosine_ratio * x, cosine_ratio * y, cosine_ratio * z
    entries = [
        *(1.0 - cy * y - cz * z, cx * y - sz, cx * z + sy),
        *(cx * y + sz, 1.0 - cx * x - cz * z, cy * z - sx),
        *(cx * z - sy, cy * z + sx, 1.0 - cx * x - cy * y),
    ]
    return jnp.stack(entries, axis=-1).reshape(*axis_angle.shape, 3)


def matrix_to_quaternion(matrix: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 4"]:
    """Unit quaternion (w >= 0) of a rotation matrix.

    Four times the outer product q q^T is linear in the matrix; its row of the largest diagonal
    entry, normalised, is q. That entry is at least 1, so nothing is ever divided by zero
    (Bar-Itzhack, "New method for extracting the quaternion from a rotation matrix", 2000).
    """
    m00, m01, m02 = matrix[..., 0, 0], matrix[..., 0, 1], matrix[..., 0, 2]
    m10, m11, m12 = matrix[..., 1, 0], matrix[..., 1, 1], matrix[..., 1, 2]
    m20, m21, m22 = matrix[..., 2, 0], matrix[..., 2, 1], matrix[..., 2, 2]
    rows = [
        [1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01],
        [m21 - m12, 1 + m00 - m11 - m22, m01 + m10, m02 + m20],
        [m02 - m20, m01 + m10, 1 - m00 + m11 - m22, m12 + m21],
        [m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22],
    ]
    outer = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    largest = jnp.argmax(jnp.diagonal(outer, axis1=-2, axis2=-1), axis=-1)
    row = jnp.take_along_axis(outer, largest[..., None, None], axis=-2)[..., 0, :]
    quaternion = row / jnp.linalg.norm(row, axis=-1, keepdims=True)
    return jnp.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def quaternion_to_axis_angle(quaternion: Float[Array, "*batch 4"]) -> Float[Array, "*batch 3"]:
    """Axis-angle of at most half a turn; the quaternion need not be normalised."""
    quaternion = jnp.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    w, vector = quaternion[..., 0], quaternion[..., 1:]
    squared = jnp.sum(vector**2, axis=-1)
    small = squared < _SMALL_SQUARED_ANGLE * w**2
    sine = jnp.sqrt(jnp.where(small, 1.0, squared))
    cosine = jnp.where(small, w, 1.0)
    ratio = jnp.where(
        small,
        2.0 / cosine * (1.0 - squared / (3.0 * cosine**2)),
        2.0 * jnp.arctan2(sine, w) / sine,
    )
    return vector * ratio[..., None]


def matrix_to_axis_angle(matrix: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 3"]:
    """Axis-angle of at most half a turn."""
    return quaternion_to_axis_angle(matrix_to_quaternion(matrix))


def axis_angle_to_quaternion(axis_angle: Float[Array, "*batch 3"]) -> Float[Array, "*batch 4"]:
    """Unit quaternion; w may be negative beyond half a turn."""
    squared = jnp.sum(axis_angle**2, axis=-1)
    small = squared < _SMALL_SQUARED_ANGLE
    angle = jnp.sqrt(jnp.where(small, 1.0, squared))
    w = jnp.where(small, 1.0 - squared / 8.0, jnp.cos(0.5 * angle))
    ratio = jnp.where(small, 0.5 - squared / 48.0, jnp.sin(0.5 * angle) / angle)
    return jnp.concatenate([w[..., None], ratio[..., None] * axis_angle], axis=-1)


def quaternion_to_matrix(quaternion: Float[Array, "*batch 4"]) -> Float[Array, "*batch 3 3"]:
    """Rotation matrix; the quaternion need not be normalised, but not be zero."""
    w, x, y, z = (quaternion[..., i] for i in range(4))
    s = 2.0 / jnp.sum(quaternion**2, axis=-1)
    rows = [
        [1 - s * (y * y + z * z), s * (x * y - w * z), s * (x * z + w * y)],
        [s * (x * y + w * z), 1 - s * (x * x + z * z), s * (y * z - w * x)],
        [s * (x * z - w * y), s * (y * z + w * x), 1 - s * (x * x + y * y)],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_rotation_6d(matrix: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 6"]:
    """First column, then second."""
    return jnp.concatenate([matrix[..., :, 0], matrix[..., :, 1]], axis=-1)


def rotation_6d_to_matrix(rotation_6d: Float[Array, "*batch 6"]) -> Float[Array, "*batch 3 3"]:
    """Gram-Schmidt of the two columns; they must not be parallel."""
    first = _unit(rotation_6d[..., :3])
    second = rotation_6d[..., 3:]
    second = _unit(second - jnp.sum(first * second, axis=-1, keepdims=True) * first)
    return jnp.stack([first, second, jnp.cross(first, second)], axis=-1)


def axis_angle_to_rotation_6d(axis_angle: Float[Array, "*batch 3"]) -> Float[Array, "*batch 6"]:
    """6D through the matrix."""
    return matrix_to_rotation_6d(axis_angle_to_matrix(axis_angle))


def rotation_6d_to_axis_angle(rotation_6d: Float[Array, "*batch 6"]) -> Float[Array, "*batch 3"]:
    """Axis-angle through the matrix."""
    return matrix_to_axis_angle(rotation_6d_to_matrix(rotation_6d))


def quaternion_to_rotation_6d(quaternion: Float[Array, "*batch 4"]) -> Float[Array, "*batch 6"]:
    """6D through the matrix."""
    return matrix_to_rotation_6d(quaternion_to_matrix(quaternion))


def rotation_6d_to_quaternion(rotation_6d: Float[Array, "*batch 6"]) -> Float[Array, "*batch 4"]:
    """Unit quaternion through the matrix."""
    return matrix_to_quaternion(rotation_6d_to_matrix(rotation_6d))


def mirror_axis_angle(axis_angle: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """The same rotation seen in the mirror x -> -x: (1, -1, -1) times the vector."""
    return axis_angle * jnp.array([1.0, -1.0, -1.0], axis_angle.dtype)


def compose_axis_angle(
    second: Float[Array, "*batch 3"], first: Float[Array, "*batch 3"]
) -> Float[Array, "*batch 3"]:
    """Axis-angle of `first`, followed by `second`."""
    product = jnp.matmul(
        axis_angle_to_matrix(second),
        axis_angle_to_matrix(first),
        precision=jax.lax.Precision.HIGHEST,
    )
    return matrix_to_axis_angle(product)


def _unit(vector: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    return vector / jnp.linalg.norm(vector, axis=-1, keepdims=True)
