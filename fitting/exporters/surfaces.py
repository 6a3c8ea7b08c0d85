"""How exported hands look: a colour a hand, and smooth normals."""

from typing import Final

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_matrix

from mano_jax.model import Side

COLOURS: Final[dict[Side, tuple[int, int, int]]] = {
    "right": (224, 153, 92),
    "left": (110, 175, 232),
}
"""Red, green and blue of each hand, sRGB bytes. Orange and blue of one lightness (CIE L* 69): they
differ for readers who see no red, no green or no blue, and neither hand stands out."""


def linear_colour(side: Side) -> tuple[float, float, float]:
    """A hand's colour without sRGB's transfer curve, 0 to 1, as glTF has it."""
    srgb = np.array(COLOURS[side]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    red, green, blue = np.round(linear, 6).tolist()
    return red, green, blue


def vertex_normals(
    vertices: Float[np.ndarray, "n V 3"], faces: Int[np.ndarray, "F 3"]
) -> Float[np.ndarray, "n V 3"]:
    """Unit outward normals of the vertices, the faces' own weighted by area."""
    a, b, c = (vertices[:, faces[:, i]] for i in range(3))
    number, corners = vertices.shape[1], faces.T.ravel()
    of_vertex = csr_matrix(
        (np.ones(len(corners)), (corners, np.tile(np.arange(len(faces)), 3))),
        shape=(number, len(faces)),
    )
    weighted = np.cross(b - a, c - a).transpose(1, 0, 2).reshape(len(faces), -1)
    summed = (of_vertex @ weighted).reshape(number, -1, 3).transpose(1, 0, 2)
    length = np.linalg.norm(summed, axis=-1, keepdims=True)
    # A vertex whose triangles have all collapsed has no normal; formats want a unit vector still.
    return np.where(length > 0, summed / np.where(length > 0, length, 1.0), [0.0, 0.0, 1.0])
