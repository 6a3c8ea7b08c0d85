"""A small z-buffer rasteriser: pictures of hands with NumPy alone.

    Mesh --orthographic_view() / camera_view()--> picture --contact_sheet()--> labelled sheet

It serves figures of a few hundred pixels: one view of two hands takes some tenths of a second,
on any machine, with no display and no graphics driver. Picture coordinates follow OpenCV: x right,
y down, z into the scene, and the centre of pixel (column i, row j) lies at (i, j).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from fitting.canonical import check_target
from mano_jax.cameras import project_perspective, project_weak
from mano_jax.files import write_whole

Picture = UInt8[np.ndarray, "height width 3"]
_Fragments = tuple[
    Int[np.ndarray, "K"], Float[np.ndarray, "K"], Int[np.ndarray, "K"], Float[np.ndarray, "K 3"]
]
"""(Pixel, triangle) pairs that cover: pixel number, depth, triangle, corner weights."""

RIGHT_COLOUR = (0.91, 0.72, 0.60)
"""Skin tone of the right hand (red, green, blue; 0 to 1)."""
LEFT_COLOUR = (0.56, 0.70, 0.86)
"""Calm blue of the left hand."""
PENETRATION_COLOUR = (0.88, 0.05, 0.10)
"""Red, for vertices inside the other hand only."""

_SUPERSAMPLING = 2

# Directions towards the lights in camera axes (y down, z away from the viewer): a key light from
# above the viewer's left shoulder, a weak one from the right that keeps shadows readable.
_LIGHTS = np.array([[-0.45, -0.70, -0.75], [0.80, 0.10, -0.45]])
_LIGHT_STRENGTHS = np.array([0.62, 0.22])
_AMBIENT = 0.34
_INSIDE_DIMMING = 0.55


@dataclass(frozen=True)
class Mesh:
    """One coloured surface."""

    vertices: Float[np.ndarray, "V 3"]
    """Metres, in the frame that the view expects."""
    faces: Int[np.ndarray, "F 3"]
    """Triangles, counter-clockwise from outside."""
    colours: Float[np.ndarray, "V 3"]
    """Red, green and blue of each vertex, 0 to 1."""
    highlight: Float[np.ndarray, "V"] | None = None
    """1 for vertices whose surface shows through whatever hides it, 0 for the others."""


@dataclass(frozen=True)
class Raster:
    """What each pixel sees: the nearest triangle."""

    face: Int[np.ndarray, "height width"]
    """Its number, -1 for none."""
    barycentric: Float[np.ndarray, "height width 3"]
    """Weights of its three corners."""
    depth: Float[np.ndarray, "height width"]
    """Its depth, infinity for none."""


# ---- the core ---------------------------------------------------------------------------------


def rasterise(
    points: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"], size: tuple[int, int]
) -> Raster:
    """Find the nearest triangle behind every pixel's centre.

    Args:
        points: x and y in pixels, then depth; only vertices of positive depth are drawn.
        faces: triangles of either orientation.
        size: width and height, pixels.

    Weights and depth are interpolated linearly in the picture. Perspective would bend them within
    a triangle; a hand's triangles are a few millimetres wide, where that cannot be seen.
    """
    width, height = size
    pixel, depth, face, weights = _fragments(points, faces, width, height)
    nearest = np.full(width * height, np.inf)
    np.minimum.at(nearest, pixel, depth)
    shown = depth == nearest[pixel]
    out_face = np.full(width * height, -1)
    out_weights = np.zeros((width * height, 3))
    out_face[pixel[shown]] = face[shown]
    out_weights[pixel[shown]] = weights[shown]
    return Raster(
        face=out_face.reshape(height, width),
        barycentric=out_weights.reshape(height, width, 3),
        depth=nearest.reshape(height, width),
    )


def _fragments(points: np.ndarray, faces: np.ndarray, width: int, height: int) -> _Fragments:
    """Every (pixel, triangle) pair that covers."""
    corners = points[faces]
    x, y = corners[..., 0], corners[..., 1]
    left = np.maximum(np.ceil(x.min(1)), 0)
    top = np.maximum(np.ceil(y.min(1)), 0)
    across = np.minimum(np.floor(x.max(1)), width - 1) - left + 1
    down = np.minimum(np.floor(y.max(1)), height - 1) - top + 1
    area = (x[:, 1] - x[:, 0]) * (y[:, 2] - y[:, 0]) - (x[:, 2] - x[:, 0]) * (y[:, 1] - y[:, 0])
    drawn = (across > 0) & (down > 0) & (area != 0) & (corners[..., 2].min(1) > 0)
    # Triangles with boxes of like size go together: each group is one dense array, and no
    # triangle's grid is more than four times its box.
    group = np.ceil(np.log2(np.maximum(np.maximum(across, down), 1))).astype(int)
    parts = []
    for level in np.unique(group[drawn]):
        members = np.flatnonzero(drawn & (group == level))
        side = np.arange(2**level)
        # Large triangles are few, but a close-up's grids must not fill the memory.
        for some in np.array_split(members, max(1, len(members) * len(side) ** 2 // 4_000_000)):
            parts.append(_group_fragments(corners, area, left, top, side, some, width, height))
    if not parts:
        return np.zeros(0, int), np.zeros(0), np.zeros(0, int), np.zeros((0, 3))
    pixel, depth, face, weights = (np.concatenate(column) for column in zip(*parts, strict=True))
    return pixel, depth, face, weights


def _group_fragments(
    corners: np.ndarray,
    area: np.ndarray,
    left: np.ndarray,
    top: np.ndarray,
    side: np.ndarray,
    members: np.ndarray,
    width: int,
    height: int,
) -> _Fragments:
    """The fragments of triangles whose boxes fit one square grid of pixels."""
    column = (left[members, None] + side)[:, None, :]
    row = (top[members, None] + side)[:, :, None]
    x = corners[members][..., 0, None, None]
    y = corners[members][..., 1, None, None]
    scale = 1.0 / area[members][:, None, None]
    first = ((x[:, 1] - column) * (y[:, 2] - row) - (x[:, 2] - column) * (y[:, 1] - row)) * scale
    second = ((x[:, 2] - column) * (y[:, 0] - row) - (x[:, 0] - column) * (y[:, 2] - row)) * scale
    # Not 1 - first - second: each edge's own formula changes only its sign in the triangle next
    # door, so that between two triangles no pixel is lost to rounding.
    third = ((x[:, 0] - column) * (y[:, 1] - row) - (x[:, 1] - column) * (y[:, 0] - row)) * scale
    inside = (first >= 0) & (second >= 0) & (third >= 0) & (column < width) & (row < height)
    which, j, i = np.nonzero(inside)
    weights = np.stack([first[inside], second[inside], third[inside]], axis=-1)
    face = members[which]
    pixel = (row[which, j, 0] * width + column[which, 0, i]).astype(int)
    return pixel, np.sum(weights * corners[face][..., 2], axis=-1), face, weights


def _interpolate(
    values: np.ndarray, faces: np.ndarray, raster: Raster, seen: np.ndarray
) -> np.ndarray:
    """Vertex values (V, k) at the pixels `seen`."""
    return np.einsum("pc,pck->pk", raster.barycentric[seen], values[faces[raster.face[seen]]])


def vertex_normals(
    vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]
) -> Float[np.ndarray, "V 3"]:
    """Unit outward normals, the faces' own weighted by area."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    weighted = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(normals, faces[:, corner], weighted)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)


# ---- lit views --------------------------------------------------------------------------------


def orthographic_view(
    meshes: Sequence[Mesh],
    *,
    direction: Sequence[float],
    up: Sequence[float],
    size_px: int = 400,
    centre: Sequence[float] | None = None,
    extent_m: float | None = None,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Picture:
    """A square picture without perspective.

    Args:
        meshes: surfaces in one frame, metres.
        direction: from the viewer into the scene; any length.
        up: what points up in the picture; need not be orthogonal to `direction`.
        size_px: side of the picture.
        centre: point of the scene in the middle; None takes the middle of the meshes' box.
        extent_m: side of the picture in metres; None lets every mesh fit with a margin.
        background: colour behind the meshes.
    """
    axes = _view_axes(np.asarray(direction, float), np.asarray(up, float))
    everything = np.concatenate([mesh.vertices for mesh in meshes])
    if centre is None:
        centre = (everything.min(0) + everything.max(0)) / 2
    in_view = [(mesh.vertices - np.asarray(centre)) @ axes.T for mesh in meshes]
    if extent_m is None:
        extent_m = 2.12 * float(max(np.abs(points[:, :2]).max() for points in in_view))
    # Behind the viewer nothing is drawn: step back until all of it lies ahead.
    step_back = 1.0 - min(points[:, 2].min() for points in in_view)

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return points[:, :2] * (size_px / extent_m) + (size_px - 1) / 2

    in_view = [points + [0.0, 0.0, step_back] for points in in_view]
    picture = np.broadcast_to(np.array(background), (size_px, size_px, 3))
    return _to_bytes(_shade(meshes, in_view, to_pixels, picture, opacity=1.0, perspective=False))


def camera_view(
    meshes: Sequence[Mesh],
    *,
    size: tuple[int, int] | None = None,
    K: Float[np.ndarray, "3 3"] | None = None,
    distortion: Float[np.ndarray, "k"] | None = None,
    weak_camera: Float[np.ndarray, "3"] | None = None,
    crop: tuple[float, float, float, float] | None = None,
    image: Picture | None = None,
    opacity: float = 1.0,
) -> Picture:
    """The meshes as a frame's camera sees them, on white or over its image.

    Args:
        meshes: surfaces, metres: in the camera's frame with `K`, relative to the anchor wrist
            with `weak_camera`.
        size: width and height in pixels; may be left out with an image.
        K: intrinsics, pixels.
        distortion: OpenCV's coefficients, beside `K`.
        weak_camera: s, t_x, t_y of u = s (X + t).
        crop: left, top, width and height in pixels of the crop that spans [-1, 1] for the weak
            camera; None takes the whole picture.
        image: what to draw over.
        opacity: of the hands, 0 to 1.

    Raises:
        ValueError: not exactly one camera, or no picture size.
    """
    if image is not None:
        size = (image.shape[1], image.shape[0])
    if size is None:
        raise ValueError("camera_view needs a size (width, height) or an image to draw over")
    to_pixels = camera_projection(
        size, K=K, distortion=distortion, weak_camera=weak_camera, crop=crop
    )
    points = [np.asarray(mesh.vertices, float) for mesh in meshes]
    if weak_camera is not None:
        # Depth along z is all that matters; without perspective its origin is free.
        nearest = min(p[:, 2].min() for p in points)
        points = [p + [0.0, 0.0, 1.0 - nearest] for p in points]
    ground = np.ones((size[1], size[0], 3)) if image is None else image[..., :3] / 255.0
    perspective = K is not None
    return _to_bytes(
        _shade(meshes, points, to_pixels, ground, opacity=opacity, perspective=perspective)
    )


def camera_projection(
    size: tuple[int, int],
    *,
    K: Float[np.ndarray, "3 3"] | None = None,
    distortion: Float[np.ndarray, "k"] | None = None,
    weak_camera: Float[np.ndarray, "3"] | None = None,
    crop: tuple[float, float, float, float] | None = None,
) -> Callable[[np.ndarray], np.ndarray]:
    """The map from points (N, 3) to pixels (N, 2) of a frame's camera; see `camera_view`.

    Raises:
        ValueError: not exactly one of `K` and `weak_camera`.
    """
    if (K is None) == (weak_camera is None):
        raise ValueError("expected one camera, K or weak_camera, found both or neither")
    if K is not None:
        bends = None if distortion is None else jnp.asarray(distortion, jnp.float32)
        intrinsics = jnp.asarray(K, jnp.float32)
        return lambda points: np.asarray(
            project_perspective(jnp.asarray(points, jnp.float32), intrinsics, bends), float
        )

    def to_pixels(points: np.ndarray) -> np.ndarray:
        weak = jnp.asarray(weak_camera, jnp.float32)
        normalised = np.asarray(project_weak(jnp.asarray(points, jnp.float32), weak), float)
        return crop_to_pixels(normalised, size, crop)

    return to_pixels


def crop_to_pixels(
    normalised: Float[np.ndarray, "N 2"],
    size: tuple[int, int],
    crop: tuple[float, float, float, float] | None = None,
) -> Float[np.ndarray, "N 2"]:
    """Pixels of normalised crop coordinates: -1 is the crop's left or top edge, 1 the other."""
    left, top, width, height = crop or (0.0, 0.0, float(size[0]), float(size[1]))
    # A pixel's edge lies half a pixel before its centre.
    return (normalised + 1) / 2 * [width, height] + [left - 0.5, top - 0.5]


def _view_axes(direction: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Rows: the picture's right, its down, and the direction into the scene."""
    forward = direction / np.linalg.norm(direction)
    right = np.cross(forward, up)
    length = np.linalg.norm(right)
    if length < 1e-9:
        raise ValueError(f"up {up.tolist()} is parallel to the viewing direction")
    right = right / length
    return np.stack([right, np.cross(forward, right), forward])


def _shade(
    meshes: Sequence[Mesh],
    points: Sequence[np.ndarray],
    to_pixels: Callable[[np.ndarray], np.ndarray],
    ground: np.ndarray,
    *,
    opacity: float,
    perspective: bool,
) -> np.ndarray:
    """Light the meshes (camera axes) and lay them over `ground`, (height, width, 3) in 0..1."""
    scene = np.concatenate(points)
    starts = np.cumsum([0] + [len(p) for p in points[:-1]])
    faces = np.concatenate([m.faces + s for m, s in zip(meshes, starts, strict=True)]).astype(int)
    # OpenCV's pixel centres are integers: a pixel's two samples lie a quarter off its centre.
    pixels = to_pixels(scene) * _SUPERSAMPLING + (_SUPERSAMPLING - 1) / 2
    size = (ground.shape[1] * _SUPERSAMPLING, ground.shape[0] * _SUPERSAMPLING)
    on_screen = np.concatenate([pixels, scene[:, 2:]], axis=1)

    colours = np.concatenate([mesh.colours for mesh in meshes])
    colour, cover = _lit_layer(scene, on_screen, faces, colours, size, perspective)
    picture = ground * (1 - opacity * cover[..., None]) + opacity * colour

    through = [np.zeros(len(m.vertices)) if m.highlight is None else m.highlight for m in meshes]
    marked = np.concatenate(through)
    touched = faces[np.any(marked[faces] > 0, axis=1)]
    if len(touched):
        red = np.broadcast_to(np.array(PENETRATION_COLOUR), colours.shape)
        colour, cover = _lit_layer(scene, on_screen, touched, red, size, perspective, marked)
        picture = picture * (1 - 0.85 * cover[..., None]) + 0.85 * colour
    return picture


def _lit_layer(
    scene: np.ndarray,
    on_screen: np.ndarray,
    faces: np.ndarray,
    colours: np.ndarray,
    size: tuple[int, int],
    perspective: bool,
    marked: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Colour times coverage, and coverage, of one z-buffered layer at the picture's own size."""
    raster = rasterise(on_screen, faces, size)
    seen = raster.face >= 0
    if marked is not None:
        # Half way between a marked vertex and its neighbour the mark ends.
        amount = _interpolate(marked[:, None], faces, raster, seen)[:, 0]
        seen[seen] = amount > 0.5
    normals = _interpolate(vertex_normals(scene, faces), faces, raster, seen)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    towards = np.array([0.0, 0.0, -1.0])
    if perspective:
        towards = -_interpolate(scene, faces, raster, seen)
        towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    colour = np.zeros((*seen.shape, 3))
    colour[seen] = _light(_interpolate(colours, faces, raster, seen), normals, towards)
    return _shrink(colour), _shrink(seen.astype(float))


def _light(colours: np.ndarray, normals: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """Two lights and ambient light; silhouettes darken a little, the inside of a hand more."""
    facing = np.sum(normals * towards, axis=1)
    inside = facing < 0
    normals = np.where(inside[:, None], -normals, normals)
    lights = _LIGHTS / np.linalg.norm(_LIGHTS, axis=1, keepdims=True)
    strength = _AMBIENT + np.maximum(normals @ lights.T, 0) @ _LIGHT_STRENGTHS
    strength = strength * (0.72 + 0.36 * np.abs(facing))
    strength = np.where(inside, _INSIDE_DIMMING * strength, strength)
    return np.clip(colours * strength[:, None], 0, 1)


def _shrink(image: np.ndarray) -> np.ndarray:
    """Mean over each pixel's samples."""
    s = _SUPERSAMPLING
    height, width = image.shape[0] // s, image.shape[1] // s
    return image.reshape(height, s, width, s, *image.shape[2:]).mean((1, 3))


def _to_bytes(picture: np.ndarray) -> Picture:
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


# ---- two hands, and sheets --------------------------------------------------------------------


def hand_meshes(
    vertices: Float[np.ndarray, "2 V 3"],
    faces: Int[np.ndarray, "2 F 3"],
    *,
    depths: Float[np.ndarray, "2 V"] | None = None,
    valid: Sequence[bool] = (True, True),
) -> list[Mesh]:
    """Both hands in their colours; skin inside the other hand shows through it, in red.

    Args:
        vertices: [right, left], metres.
        faces: [right, left].
        depths: how deep each vertex is in the other hand, metres; None marks nothing.
        valid: which hands to draw.
    """
    meshes = []
    for hand, colour in enumerate((RIGHT_COLOUR, LEFT_COLOUR)):
        if not valid[hand]:
            continue
        points = np.asarray(vertices[hand], float)
        colours = np.tile(np.array(colour), (len(points), 1))
        highlight = None
        if depths is not None:
            highlight = (np.asarray(depths[hand]) > 0).astype(float)
        meshes.append(Mesh(points, np.asarray(faces[hand]), colours, highlight))
    return meshes


def contact_sheet(
    rows: Sequence[Sequence[Picture]],
    *,
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    title: str = "",
    footer: str = "",
    font_px: int = 18,
) -> Picture:
    """Pictures of one size in rows and columns, with labels, on white.

    Args:
        rows: the pictures; a row may be shorter than others.
        row_labels: text left of each row; lines break at a newline.
        column_labels: text above each column.
        title: text above everything.
        footer: text below everything.
        font_px: height of the text.
    """
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    font = ImageFont.load_default(font_px)
    gap, line = 6, round(1.5 * font_px)
    lines = [text for label in row_labels for text in label.split("\n")]
    left = gap + (round(max(font.getlength(t) for t in lines)) + 2 * gap if lines else 0)
    top = gap + (line * (title.count("\n") + 1) if title else 0)
    first = top + (line if column_labels else 0)
    foot = first + len(rows) * (height + gap)
    right = left + columns * (width + gap)
    words = [*title.split("\n"), *footer.split("\n")]
    right = max(right, round(max(font.getlength(t) for t in words)) + 2 * gap)
    bottom = foot + (line * (footer.count("\n") + 1) if footer else 0)

    sheet = Image.new("RGB", (right, bottom), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, gap), title, fill="black", font=font)
    draw.text((gap, foot), footer, fill=(60, 60, 60), font=font)
    for j, label in enumerate(column_labels):
        draw.text((left + j * (width + gap), top), label, fill="black", font=font)
    for i, row in enumerate(rows):
        y = first + i * (height + gap)
        if i < len(row_labels):
            draw.text((gap, y + gap), row_labels[i], fill="black", font=font)
        for j, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (left + j * (width + gap), y))
    return np.array(sheet)


def save_png(picture: Picture, path: Path) -> None:
    """Write a picture, or replace one.

    Raises:
        InputError: the name does not end in `.png`, or its folder cannot be written to.
    """
    check_target(path, (".png",), overwrite=True)
    write_whole(path, lambda file: Image.fromarray(picture).save(file, format="PNG"))
