"""Binary glTF: a file a frame (`glb`), or one animated file (`glb_animated`).

Both have the nodes `right` and `left`, a material each and vertex normals; metres, glTF's axes (y
up, z backward, so that the camera looks the usual way), the hands' own triangles.

    glb            0000.glb ..., and frames.json with each file's frame
    glb_animated   one .glb; an animation for each `sequence_id`, each beginning at time 0

**How the animation moves.** Skinned joints alone would lose MANO's pose blend shapes, and viewers
differ on more than four joints a vertex, of which MANO has more. So a node carries the wrist's
rotation and place, and every frame is a morph target of the fingers' shape about the wrist: at each
frame's time the mesh is the frame's own to rounding. Between frames the wrist turns steadily and
vertices move in straight lines (LINEAR). A morph target of its own for every frame, weighted 0 to
1, and no fewer from a decomposition: those need weights below 0, which Blender clamps, and hundreds
of targets for the same accuracy. It costs 37 kB a frame of two hands, and bounds the number of
frames. The targets' names are the frames'.

An absent hand has scale 0 (STEP) until it is there again. A viewer that plays nothing shows each
hand as in its first frame.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float, Float32

from fitting.errors import InputError
from fitting.exporters.folders import FolderFiles, frame_stem, write_folder
from fitting.exporters.frames import TO_OPENGL, ExportFrames
from fitting.exporters.gltf import GlbBuilder
from fitting.exporters.surfaces import linear_colour, vertex_normals
from mano_jax.files import write_whole
from mano_jax.model import SIDES

MOST_FRAMES: Final = 300
"""Of an animated file: 12 MB for two hands. Blender would take more, but viewers in browsers keep a
weight for each target among the few hundred numbers that a shader can be given."""

DEFAULT_FPS: Final = 30.0
"""Frames a second where no timestamps tell."""

Array32 = Float32[np.ndarray, "..."]


def write_glb(path: Path, frames: ExportFrames) -> tuple[list[Path], list[str]]:
    """Write a folder with a file a frame; returns its files, and nothing to say."""
    return write_folder(path, lambda folder: _write_frames(folder, frames)), []


def _write_frames(folder: Path, frames: ExportFrames) -> FolderFiles:
    faces = np.asarray(frames.hands.faces)
    names: FolderFiles = {}
    for chunk in frames.posed():
        vertices = chunk.vertices * TO_OPENGL
        both = (vertex_normals(vertices[:, hand], faces[hand]) for hand in range(2))
        normals = np.stack(list(both), axis=1)
        for i, n in enumerate(range(frames.num_frames)[chunk.rows]):
            if not frames.valid[n].any():
                continue
            builder, name = GlbBuilder(), str(frames.names[n])
            for hand in np.flatnonzero(frames.valid[n]):
                mesh = _mesh(builder, int(hand), faces[hand], vertices[i, hand], normals[i, hand])
                builder.add("nodes", name=SIDES[hand], mesh=mesh)
            with (folder / f"{frame_stem(n)}.glb").open("wb") as file:
                builder.write(file, scene=name)
            names[frame_stem(n)] = name
    return names


def write_glb_animated(
    path: Path, frames: ExportFrames, *, fps: float | None = None
) -> tuple[list[Path], list[str]]:
    """Write one animated file; returns it, and how the times were told if they could not be.

    Args:
        path: where to.
        frames: what.
        fps: frames a second; None takes the timestamps, or `DEFAULT_FPS` without them.

    Raises:
        InputError: too many frames, or `fps` is none.
    """
    if fps is not None and not 0 < fps < np.inf:
        raise InputError(f"fps: expected frames a second, more than 0, found {fps:g}")
    count = int(frames.valid.any(axis=1).sum())
    if count > MOST_FRAMES:
        raise InputError(
            f"glb_animated: expected at most {MOST_FRAMES} frames, each of which is a shape in the "
            f"file, found {count}: take a range of them (--frames 0:{MOST_FRAMES}, or "
            f"predictions.frames(slice(0, {MOST_FRAMES}))), or write glb, which has a file a frame"
        )
    builder, notes = GlbBuilder(), []
    clips = list(_clips(frames, fps, notes))
    channels: dict[str, list[dict[str, Any]]] = {clip: [] for clip, _, _ in clips}
    samplers: dict[str, list[dict[str, Any]]] = {clip: [] for clip, _, _ in clips}
    shapes = _shapes(frames)
    for hand in range(2):
        present = np.flatnonzero(frames.valid[:, hand])
        if not len(present):
            continue
        moves = _Moves(frames, hand)
        node = _animated_node(builder, frames, hand, shapes[present, hand], moves)
        for clip, rows, times in clips:
            for key, keyed, values, interpolation in moves.keys(rows, times):
                channels[clip].append(
                    {"sampler": len(samplers[clip]), "target": {"node": node, "path": key}}
                )
                samplers[clip].append(
                    {
                        "input": builder.accessor(keyed, bounds=True),
                        "output": builder.accessor(values),
                        "interpolation": interpolation,
                    }
                )
    for clip, _, _ in clips:
        builder.add("animations", name=clip, channels=channels[clip], samplers=samplers[clip])
    write_whole(path, lambda file: builder.write(file, scene="hands"))
    return [path], notes


class _Moves:
    """How one hand's node moves: what glTF animates, by frame."""

    def __init__(self, frames: ExportFrames, hand: int) -> None:
        self.valid = frames.valid[:, hand]
        self.translation = (frames.wrists[:, hand] * TO_OPENGL).astype(np.float32)
        quaternions = frames.rotation_opengl.as_quat().reshape(-1, 2, 4)[:, hand]
        self.rotation = quaternions.astype(np.float32)
        present = np.flatnonzero(self.valid)
        self.weights = np.zeros((len(self.valid), len(present) - 1), np.float32)
        self.weights[present[1:], np.arange(len(present) - 1)] = 1.0

    @property
    def first(self) -> int:
        """The first frame with this hand, which is the mesh without any target."""
        return int(np.flatnonzero(self.valid)[0])

    def keys(self, rows: np.ndarray, times: Array32) -> Iterator[tuple[str, Array32, Array32, str]]:
        """What moves in a clip: its name, times (K,), values and interpolation.

        Args:
            rows: the clip's frames.
            times: their times, seconds.
        """
        there = self.valid[rows]
        shown, keyed = rows[there], times[there]
        if len(shown):
            yield "translation", keyed, self.translation[shown], "LINEAR"
            yield "rotation", keyed, _continuous(self.rotation[shown]), "LINEAR"
            if self.weights.shape[1]:
                yield "weights", keyed, self.weights[shown].ravel(), "LINEAR"
        if not self.valid.all():
            changes = np.concatenate([[True], there[1:] != there[:-1]])
            scale = np.repeat(there[changes, None], 3, axis=1).astype(np.float32)
            yield "scale", times[changes], scale, "STEP"


def _continuous(quaternions: Float32[np.ndarray, "K 4"]) -> Float32[np.ndarray, "K 4"]:
    """The same rotations, signs such that each is the nearer one of the two to that before."""
    turned = np.sum(quaternions[1:] * quaternions[:-1], axis=1) < 0
    sign = np.cumprod(np.where(np.concatenate([[False], turned]), -1.0, 1.0))
    return (quaternions * sign[:, None]).astype(np.float32)


def _shapes(frames: ExportFrames) -> Float[np.ndarray, "N 2 V 3"]:
    """Vertices about the wrist, unturned."""
    return np.concatenate([chunk.vertices for chunk in frames.posed(about_wrist=True)])


def _animated_node(
    builder: GlbBuilder,
    frames: ExportFrames,
    hand: int,
    shapes: Float[np.ndarray, "M V 3"],
    moves: _Moves,
) -> int:
    """Add a hand, a morph target for each of its frames but the first; returns its node."""
    faces = np.asarray(frames.hands.faces[hand])
    normals = vertex_normals(shapes, faces)
    targets = [
        {
            "POSITION": _vertices(builder, shape - shapes[0], bounds=True),
            "NORMAL": _vertices(builder, normal - normals[0]),
        }
        for shape, normal in zip(shapes[1:], normals[1:], strict=True)
    ]
    morphs: dict[str, Any] = {}
    if targets:
        names = frames.names[frames.valid[:, hand]][1:].tolist()
        morphs = {"weights": [0.0] * len(targets), "extras": {"targetNames": names}}
    mesh = _mesh(builder, hand, faces, shapes[0], normals[0], targets=targets, **morphs)
    first = moves.first
    return builder.add(
        "nodes",
        name=SIDES[hand],
        mesh=mesh,
        translation=moves.translation[first].tolist(),
        rotation=moves.rotation[first].tolist(),
    )


def _mesh(
    builder: GlbBuilder,
    hand: int,
    faces: np.ndarray,
    vertices: np.ndarray,
    normals: np.ndarray,
    *,
    targets: list[dict[str, int]] | None = None,
    **content: Any,
) -> int:
    """Add a hand's mesh with its material; returns its number."""
    side = SIDES[hand]
    material = builder.add(
        "materials",
        name=side,
        # Viewers take bare metal where nothing is said. A hand is seen from inside at the wrist.
        pbrMetallicRoughness={
            "baseColorFactor": [*linear_colour(side), 1.0],
            "metallicFactor": 0.0,
            "roughnessFactor": 0.8,
        },
        doubleSided=True,
    )
    numbers = np.uint16 if len(vertices) < 2**16 - 1 else np.uint32
    primitive: dict[str, Any] = {
        "attributes": {
            "POSITION": _vertices(builder, vertices, bounds=True),
            "NORMAL": _vertices(builder, normals),
        },
        "indices": builder.accessor(faces.astype(numbers).ravel(), role="triangles"),
        "material": material,
    }
    if targets:
        primitive["targets"] = targets
    return builder.add("meshes", name=side, primitives=[primitive], **content)


def _vertices(builder: GlbBuilder, values: np.ndarray, *, bounds: bool = False) -> int:
    return builder.accessor(values.astype(np.float32), role="vertices", bounds=bounds)


def _clips(
    frames: ExportFrames, fps: float | None, notes: list[str]
) -> Iterator[tuple[str, np.ndarray, Array32]]:
    """Name, frames and times (seconds, from 0) of each animation; adds to `notes`."""
    sequences = frames.source.sequence_id
    if sequences is None:
        sequences = np.zeros(frames.num_frames, np.int64)
    stamps = frames.source.timestamp if fps is None else None
    for sequence in np.unique(sequences):
        rows = np.flatnonzero(sequences == sequence)
        if not frames.valid[rows].any():
            continue
        times = (np.arange(len(rows)) / (fps or DEFAULT_FPS)).astype(np.float32)
        if stamps is not None:
            told = (stamps[rows] - stamps[rows[0]]).astype(np.float32)
            if np.isfinite(told).all() and np.all(np.diff(told) > 0):
                times = told
            else:
                notes.append(
                    f"the timestamps of sequence {sequence} do not increase: {DEFAULT_FPS:g} "
                    "frames a second instead"
                )
        yield f"sequence {sequence}", rows, times
