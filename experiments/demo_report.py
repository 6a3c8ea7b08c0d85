"""What the demo shows of a refinement: a table, a 3D scene and a picture, before and after.

Plain arrays in, text or files out. The data is synthetic, and table and picture say so.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Float, Int
from trimesh.exchange.gltf import export_glb
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from experiments.render import (
    LEFT_COLOUR,
    PENETRATION_COLOUR,
    RIGHT_COLOUR,
    Picture,
    contact_sheet,
    hand_meshes,
    orthographic_view,
)
from fitting.canonical import check_target
from mano_jax.files import write_whole

BeforeAfter = tuple[Float[np.ndarray, "N"], Float[np.ndarray, "N"]]
"""One number a frame, before and after."""

_SCENE_OPACITY = 0.6
_FLIP_TO_GLTF = np.array([1.0, -1.0, -1.0])
"""From OpenCV's axes (y down, z forward) to glTF's (y up, z backward)."""


def before_after_table(
    energies: Mapping[str, BeforeAfter], metrics: Mapping[str, BeforeAfter], *, source: str
) -> str:
    """Means over frames in aligned columns: every energy term, their sum, every metric.

    Args:
        energies: weighted energy terms by name.
        metrics: metrics by name and unit, such as "MPJPE (mm)"; NaN where undefined.
        source: where the frames come from, for the heading.
    """
    total = tuple(np.sum([pair[i] for pair in energies.values()], axis=0) for i in (0, 1))
    frames = len(total[0])
    groups = [
        [(name, pair, "{:.4g}") for name, pair in {**energies, "sum": total}.items()],
        [(name, pair, "{:.2f}") for name, pair in metrics.items()],
    ]
    headings = ("energy, weighted", "metric")
    rows: list[tuple[str, str, str, str] | None] = []
    for heading, group in zip(headings, groups, strict=True):
        rows.append((heading, "before", "after", "change"))
        rows.append(None)
        rows += [(name, *_figures(pair, style)) for name, pair, style in group]
        rows.append(None)
    widths = [max(len(row[i]) for row in rows if row) for i in range(4)]
    rule = "-" * (sum(widths) + 6)
    lines = [rule if row is None else _aligned(row, widths) for row in rows[:-1]]
    return "\n".join([f"{source}: mean of {frames} frames", rule, *lines])


def _aligned(row: tuple[str, str, str, str], widths: list[int]) -> str:
    first, *others = (
        text.ljust(w) if i == 0 else text.rjust(w)
        for i, (text, w) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([first, *others])


def _figures(pair: BeforeAfter, style: str) -> tuple[str, str, str]:
    before, after = (_mean(values) for values in pair)
    change = "-"
    if np.isfinite([before, after]).all() and before != 0:
        change = f"{100 * (after / before - 1):+.0f} %"
    first, second = (style.format(x) if np.isfinite(x) else "-" for x in (before, after))
    return first, second, change


def _mean(values: np.ndarray) -> float:
    """Mean over the frames that have a value; NaN if none has."""
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if len(kept) else float("nan")


def worst_frame(deepest: Float[np.ndarray, "N"]) -> int:
    """The frame with the deepest vertex; NaN counts as none."""
    return int(np.nan_to_num(deepest).argmax())


def write_scene(
    path: Path,
    *,
    vertices: tuple[Float[np.ndarray, "2 V 3"], Float[np.ndarray, "2 V 3"]],
    depths: tuple[Float[np.ndarray, "2 V"], Float[np.ndarray, "2 V"]],
    faces: Int[np.ndarray, "2 F 3"],
) -> None:
    """Write a GLB with one frame's hands before (left) and after (right), side by side.

    The hands are translucent and what is inside the other hand is solid red, so that it can be
    seen from anywhere. Nodes are named `before_right`, `after_left_penetrating` and so on.

    Args:
        path: file to write, or to replace.
        vertices: before and after, metres, camera axes; hands [right, left].
        depths: before and after, depth of each vertex in the other hand, metres.
        faces: [right, left].
    """
    scene = trimesh.Scene()
    width = max(float(np.ptp(pair[..., 0])) for pair in vertices)
    middle = np.mean([pair.reshape(-1, 3).mean(axis=0) for pair in vertices], axis=0)
    for step, name in enumerate(("before", "after")):
        shift = np.array([(step - 0.5) * 1.25 * width, 0.0, 0.0]) - middle
        for hand, (side, tone) in enumerate((("right", RIGHT_COLOUR), ("left", LEFT_COLOUR))):
            points = (vertices[step][hand] + shift) * _FLIP_TO_GLTF
            skin = _scene_mesh(points, faces[hand], (*tone, _SCENE_OPACITY))
            scene.add_geometry(skin, node_name=f"{name}_{side}", geom_name=f"{name}_{side}")
            inside = np.any(depths[step][hand][faces[hand]] > 0, axis=1)
            if inside.any():
                mark = _scene_mesh(points, faces[hand][inside], (*PENETRATION_COLOUR, 1.0))
                label = f"{name}_{side}_penetrating"
                scene.add_geometry(mark, node_name=label, geom_name=label)
    check_target(path, (".glb",), overwrite=True)
    write_whole(path, lambda file: file.write(export_glb(scene)))


def _scene_mesh(
    points: np.ndarray, faces: np.ndarray, colour: tuple[float, float, float, float]
) -> trimesh.Trimesh:
    # Without a material viewers assume bare metal, which is black where nothing is reflected.
    material = PBRMaterial(
        baseColorFactor=np.round(255 * np.array(colour)).astype(np.uint8),
        metallicFactor=0.0,
        roughnessFactor=0.8,
        alphaMode="BLEND" if colour[3] < 1 else "OPAQUE",
        doubleSided=True,
    )
    visual = TextureVisuals(material=material)
    mesh = trimesh.Trimesh(points, faces, visual=visual, process=False)
    mesh.remove_unreferenced_vertices()
    return mesh


def before_after_picture(
    *,
    vertices: tuple[Float[np.ndarray, "2 V 3"], Float[np.ndarray, "2 V 3"]],
    depths: tuple[Float[np.ndarray, "2 V"], Float[np.ndarray, "2 V"]],
    faces: Int[np.ndarray, "2 F 3"],
    title: str,
    size_px: int = 420,
) -> Picture:
    """One frame before (above) and after (below), from the camera and from the side.

    All four views have one scale and centre, so that they can be compared.

    Args:
        vertices: before and after, metres, camera axes; hands [right, left].
        depths: before and after, depth of each vertex in the other hand, metres.
        faces: [right, left].
        title: text above the picture.
        size_px: side of each view.
    """
    everything = np.concatenate([pair.reshape(-1, 3) for pair in vertices])
    low, high = everything.min(axis=0), everything.max(axis=0)
    rows, labels = [], []
    for name, points, depth in zip(("before", "after"), vertices, depths, strict=True):
        meshes = hand_meshes(points, faces, depths=depth)
        rows.append(
            [
                orthographic_view(
                    meshes,
                    direction=direction,
                    up=(0.0, -1.0, 0.0),
                    size_px=size_px,
                    centre=((low + high) / 2).tolist(),
                    extent_m=1.06 * float((high - low).max()),
                )
                for direction in ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0))
            ]
        )
        labels.append(f"{name}\ndeepest\n{1000 * float(depth.max()):.1f} mm")
    return contact_sheet(
        rows,
        row_labels=labels,
        column_labels=("from the camera", "from the side"),
        title=title,
        footer=(
            "Right hand in skin tone, left hand in blue. Red: skin that is inside the other hand,\n"
            "drawn through whatever hides it. Synthetic data."
        ),
    )
