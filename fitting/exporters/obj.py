"""Wavefront OBJ: a file a frame, `0000.obj`, with the objects `right` and `left`.

Metres, OpenCV's axes (x right, y down, z forward), vertex normals, the hand's own triangles (open
at the wrist). `hands.mtl` holds the two materials, `frames.json` each file's frame.
"""

from pathlib import Path
from typing import Final

import numpy as np

from fitting.exporters.folders import FolderFiles, frame_stem, write_folder
from fitting.exporters.frames import ExportFrames
from fitting.exporters.surfaces import COLOURS, vertex_normals
from mano_jax.model import SIDES

MATERIALS_FILE: Final = "hands.mtl"

_HEADER: Final = f"# manofit: metres, x right, y down, z forward\nmtllib {MATERIALS_FILE}\n"


def write_obj(path: Path, frames: ExportFrames) -> tuple[list[Path], list[str]]:
    """Write the folder; returns its files, and nothing to say."""
    return write_folder(path, lambda folder: _write(folder, frames)), []


def _write(folder: Path, frames: ExportFrames) -> FolderFiles:
    (folder / MATERIALS_FILE).write_text(_materials(), encoding="ascii")
    faces = np.asarray(frames.hands.faces)
    names: FolderFiles = {}
    for chunk in frames.posed():
        both = (vertex_normals(chunk.vertices[:, hand], faces[hand]) for hand in range(2))
        normals = np.stack(list(both), axis=1)
        for i, n in enumerate(range(frames.num_frames)[chunk.rows]):
            present = np.flatnonzero(frames.valid[n])
            if not len(present):
                continue
            parts, first = [_HEADER], 1
            for hand in present:
                parts.append(f"o {SIDES[hand]}\nusemtl {SIDES[hand]}\n")
                parts.append(_lines("v %.7f %.7f %.7f\n", chunk.vertices[i, hand]))
                parts.append(_lines("vn %.4f %.4f %.4f\n", normals[i, hand]))
                # A vertex and its normal have one number; numbers run on through the file.
                corners = np.repeat(faces[hand] + first, 2, axis=1)
                parts.append(_lines("f %d//%d %d//%d %d//%d\n", corners))
                first += frames.hands.num_vertices
            (folder / f"{frame_stem(n)}.obj").write_text("".join(parts), encoding="ascii")
            names[frame_stem(n)] = str(frames.names[n])
    return names


def _lines(line: str, values: np.ndarray) -> str:
    return line * len(values) % tuple(values.ravel().tolist())


def _materials() -> str:
    lines = []
    for side in SIDES:
        red, green, blue = (f"{byte / 255:.4f}" for byte in COLOURS[side])
        lines.append(f"newmtl {side}\nKd {red} {green} {blue}\nKs 0 0 0\nd 1\nillum 1\n")
    return "\n".join(lines)
