"""PLY: a binary file a frame, `0000.ply`, whose vertices have their hand's colour.

Metres, OpenCV's axes (x right, y down, z forward), vertex normals, the hands' own triangles (open
at the wrist). PLY knows no objects: comments say which vertices and triangles are which hand's.
`frames.json` holds each file's frame.
"""

from pathlib import Path
from typing import Final

import numpy as np

from fitting.exporters.folders import FolderFiles, frame_stem, write_folder
from fitting.exporters.frames import ExportFrames
from fitting.exporters.surfaces import COLOURS, vertex_normals
from mano_jax.model import SIDES

_FLOATS: Final = ("x", "y", "z", "nx", "ny", "nz")
_BYTES: Final = ("red", "green", "blue")
_VERTEX: Final = np.dtype([(n, "<f4") for n in _FLOATS] + [(n, "u1") for n in _BYTES])
_FACE: Final = np.dtype([("count", "u1"), ("corners", "<i4", (3,))])


def write_ply(path: Path, frames: ExportFrames) -> tuple[list[Path], list[str]]:
    """Write the folder; returns its files, and nothing to say."""
    return write_folder(path, lambda folder: _write(folder, frames)), []


def _write(folder: Path, frames: ExportFrames) -> FolderFiles:
    names: FolderFiles = {}
    for chunk in frames.posed():
        for i, n in enumerate(range(frames.num_frames)[chunk.rows]):
            if frames.valid[n].any():
                content = _file(frames, np.flatnonzero(frames.valid[n]), chunk.vertices[i])
                (folder / f"{frame_stem(n)}.ply").write_bytes(content)
                names[frame_stem(n)] = str(frames.names[n])
    return names


def _file(frames: ExportFrames, present: np.ndarray, vertices: np.ndarray) -> bytes:
    """One frame's file, of the hands that are `present`."""
    comments = ["comment manofit: metres, x right, y down, z forward"]
    points, triangles = [], []
    for place, hand in enumerate(present):
        faces = np.asarray(frames.hands.faces[hand])
        first, first_face = place * len(vertices[hand]), place * len(faces)
        points.append(_vertices(vertices[hand], faces, COLOURS[SIDES[hand]]))
        triangles.append(faces + first)
        comments.append(
            f"comment {SIDES[hand]}: vertices {first} to {first + len(points[-1]) - 1}, "
            f"faces {first_face} to {first_face + len(faces) - 1}"
        )
    rows, corners = np.concatenate(points), np.concatenate(triangles)
    table = np.empty(len(corners), _FACE)
    table["count"], table["corners"] = 3, corners
    header = [
        "ply",
        "format binary_little_endian 1.0",
        *comments,
        f"element vertex {len(rows)}",
        *(f"property float {name}" for name in _FLOATS),
        *(f"property uchar {name}" for name in _BYTES),
        f"element face {len(table)}",
        "property list uchar int vertex_indices",
        "end_header\n",
    ]
    return "\n".join(header).encode("ascii") + rows.tobytes() + table.tobytes()


def _vertices(vertices: np.ndarray, faces: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """One hand's rows."""
    rows = np.empty(len(vertices), _VERTEX)
    normals = vertex_normals(vertices[None], faces)[0]
    for name, column in zip(_FLOATS, np.concatenate([vertices, normals], axis=1).T, strict=True):
        rows[name] = column
    for name, byte in zip(_BYTES, colour, strict=True):
        rows[name] = byte
    return rows
