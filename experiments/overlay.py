"""Draw a frame's hands over its image, through the frame's own camera."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from experiments.render import (
    LEFT_COLOUR,
    RIGHT_COLOUR,
    Picture,
    camera_view,
    crop_to_pixels,
    hand_meshes,
    save_png,
)
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from fitting.prepare import Prepared, prepare
from mano_jax.cameras import transform
from mano_jax.model import Hands
from objectives.collision import exact_depths
from objectives.problem import both_hands, posed_hands

# Compiled as wholes: operation by operation the first picture would take many seconds.
_posed = jax.jit(posed_hands)
_depths = jax.jit(exact_depths)


def draw_overlay(
    hands: Hands,
    predictions: TwoHandPredictions,
    image_path: Path,
    out_path: Path,
    *,
    frame: int = 0,
    view: int = 0,
    crop: tuple[float, float, float, float] | None = None,
    opacity: float = 0.75,
) -> None:
    """Read a frame's image, draw its hands over it and write a PNG.

    Args:
        hands: the hand model.
        predictions: predictions, or a result's.
        image_path: the frame's picture; with a weak camera, the crop that it refers to.
        out_path: where the picture goes.
        frame: number of the frame; from the end if negative.
        view: number of the view, for several cameras.
        crop: see `overlay`.
        opacity: of the hands, 0 to 1.

    Raises:
        InputError: as for `overlay`, or the picture cannot be written.
        OSError: the image cannot be read.
    """
    with Image.open(image_path) as opened:
        image = np.array(opened.convert("RGB"))
    picture = overlay(
        hands,
        predictions,
        image,
        frame=frame,
        view=view,
        crop=crop,
        opacity=opacity,
    )
    save_png(picture, out_path)


def overlay(
    hands: Hands,
    predictions: TwoHandPredictions,
    image: Picture,
    *,
    frame: int = 0,
    view: int = 0,
    crop: tuple[float, float, float, float] | None = None,
    opacity: float = 0.75,
) -> Picture:
    """The image with a frame's hands, and its 2D keypoints as dots.

    Vertices inside the other hand are red. Without parameters the hands are those that a fit
    would start from.

    Args:
        hands: the hand model.
        predictions: predictions, or a result's.
        image: red, green, blue.
        frame: number of the frame; from the end if negative.
        view: number of the view, for several cameras.
        crop: left, top, width and height in pixels of what the weak camera's [-1, 1] spans; None
            takes the whole image.
        opacity: of the hands, 0 to 1.

    Raises:
        InputError: no such frame or view, a frame that has no camera or cannot be posed, a crop
            without area or beside `K`, or an opacity out of range.
    """
    _check_options(predictions, view, crop, opacity)
    number = _frame_number(predictions, frame)
    prepared = _prepared(hands, predictions, number)
    K, distortion, weak_camera = _camera(predictions, prepared, number, view)
    posed = _posed(hands, prepared.params, prepared.observations.left_anchor)
    active = both_hands(jnp.asarray(prepared.observations.hand_valid))
    depths = np.asarray(_depths(hands, posed.vertices, active))[0]
    vertices = _in_view(np.asarray(posed.vertices[0]), prepared, view)
    meshes = hand_meshes(
        vertices,
        np.asarray(hands.faces),
        depths=depths,
        valid=np.asarray(prepared.observations.hand_valid[0]).tolist(),
    )
    picture = camera_view(
        meshes,
        K=K,
        distortion=distortion,
        weak_camera=weak_camera,
        crop=crop,
        image=image,
        opacity=opacity,
    )
    return _with_keypoints(picture, predictions, number, view, crop)


def _check_options(
    predictions: TwoHandPredictions,
    view: int,
    crop: tuple[float, float, float, float] | None,
    opacity: float,
) -> None:
    views = predictions.num_views
    if not 0 <= view < views:
        raise InputError(f"view {view}: expected 0 to {views - 1}, the file has {views} views")
    if crop is not None and predictions.K is not None:
        raise InputError("crop: found K, whose pixels are the image's; leave the crop out")
    if crop is not None and not (np.isfinite(crop).all() and min(crop[2:]) > 0):
        raise InputError(f"crop: expected a width and height above 0, found {crop}")
    if not 0 <= opacity <= 1:
        raise InputError(f"opacity: expected 0 to 1, found {opacity}")


def _frame_number(predictions: TwoHandPredictions, frame: int) -> int:
    count = predictions.num_frames
    if not -count <= frame < count:
        raise InputError(f"frame {frame}: expected 0 to {count - 1}, the file has {count} frames")
    return frame % count


def _prepared(hands: Hands, predictions: TwoHandPredictions, number: int) -> Prepared:
    prepared = prepare(hands, predictions.frames([number]))
    if reason := str(prepared.reasons[0]):
        raise InputError(f"frame {number} cannot be drawn: {reason}")
    return prepared


def _camera(
    predictions: TwoHandPredictions, prepared: Prepared, number: int, view: int
) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """The frame's camera: K, distortion and weak camera, None for those that it has not."""
    if predictions.K is None:
        if predictions.weak_camera is None:
            raise InputError("expected weak_camera or K to draw an overlay, found neither")
        if not prepared.weak_camera_known[0]:
            raise InputError(f"frame {number} has no usable weak_camera to draw it through")
        return None, None, np.asarray(prepared.params.weak_camera[0])
    if not prepared.root_known[0]:
        raise InputError(
            f"frame {number} has K but neither root_transl nor keypoints_2d to place it by"
        )
    distortion = predictions.distortion
    return (
        predictions.K[number, view],
        None if distortion is None else distortion[number, view],
        None,
    )


def _in_view(
    vertices: Float[np.ndarray, "2 V 3"], prepared: Prepared, view: int
) -> Float[np.ndarray, "2 V 3"]:
    """From the anchor frame to the view's camera; weak cameras use the anchor frame."""
    views = prepared.observations.views
    if views is None:
        return vertices
    in_first = jnp.asarray(vertices) + prepared.params.root_transl[0]
    T = jnp.broadcast_to(views.T_view_camera[0, view], (2, 4, 4))
    return np.asarray(transform(T, in_first))


def _with_keypoints(
    picture: Picture,
    predictions: TwoHandPredictions,
    number: int,
    view: int,
    crop: tuple[float, float, float, float] | None,
) -> Picture:
    """Dots where the 2D keypoints are, in a darker tone of their hand, ringed in white."""
    keypoints = predictions.frames([number]).keypoints_by_view()
    if keypoints is None:
        return picture
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    size = (image.width, image.height)
    radius = max(2.0, 0.006 * max(size))
    for hand, tone in enumerate((RIGHT_COLOUR, LEFT_COLOUR)):
        points = keypoints[0, view, hand].astype(np.float64)
        points = points[(points[:, 2] > 0) & np.isfinite(points).all(axis=1)]
        places = points[:, :2]
        if predictions.K is None:
            places = crop_to_pixels(places, size, crop)
        colour = tuple(round(150 * c) for c in tone)
        for x, y in places:
            box = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(box, fill=colour, outline="white", width=1)
    return np.array(image)
