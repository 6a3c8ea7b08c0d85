"""Facts about a mesh that its triangles alone decide; NumPy, at load time."""

import numpy as np
from jaxtyping import Int


def boundary_loop(faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, "L"]:
    """Vertices of the one hole of a mesh, in the direction in which its triangles walk it.

    For a hand the hole is the wrist opening; its vertices are found here, never by number.

    Raises:
        ValueError: the mesh is closed, or its boundary is not one simple loop.
    """
    edges = {(int(a), int(b)) for tri in faces for a, b in zip(tri, np.roll(tri, -1), strict=True)}
    following = {a: b for a, b in edges if (b, a) not in edges}
    if not following:
        raise ValueError("the mesh has no boundary: a hand is open at the wrist")
    start = min(following)
    loop = [start]
    while (vertex := following.get(loop[-1])) is not None and vertex != start:
        if len(loop) > len(following):
            break
        loop.append(vertex)
    if vertex != start or len(loop) != len(following):
        raise ValueError("the mesh's boundary is not one simple loop: expected only the wrist")
    return np.array(loop)


def cap_faces(faces: Int[np.ndarray, "F 3"]) -> Int[np.ndarray, "C 3"]:
    """A fan of triangles over the wrist opening, wound so that the closed mesh is consistent.

    The fan starts at the loop's lowest-numbered vertex, so both hands' caps mirror each other.
    """
    loop = np.roll(boundary_loop(faces)[::-1], 1)
    first = np.full(len(loop) - 2, loop[0])
    return np.stack([first, loop[1:-1], loop[2:]], axis=-1)
