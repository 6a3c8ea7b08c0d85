"""What does the embedded hand look like? Twenty-four views of the stored arrays.

python -m experiments.embedded_hand.contact_sheet --out docs/images/embedded_hand.png
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from experiments.embedded_hand.contact import Poser
from experiments.embedded_hand.intersections import SelfIntersectionTest
from experiments.embedded_hand.poses import named_poses
from experiments.embedded_hand.posing import RiggedHand
from experiments.embedded_hand.shapes import COMPONENTS
from experiments.embedded_hand.skeleton import rest_skeleton
from experiments.render import (
    LEFT_COLOUR,
    RIGHT_COLOUR,
    Mesh,
    Picture,
    contact_sheet,
    orthographic_view,
    save_png,
)
from mano_jax.procedural import embedded_hand_model

# Direction into the scene, and up, in the template's frame.
_VIEWS = {
    "back": ((0, -1, 0), (-1, 0, 0)),
    "palm": ((0, 1, 0), (-1, 0, 0)),
    "thumb side": ((0, 0, -1), (0, 1, 0)),
    "little-finger side": ((0, 0, 1), (0, 1, 0)),
    "front": ((1, -0.15, 0), (0, 1, 0)),
    "above": ((0.5, -0.7, -0.6), (-0.7, 0.5, 0)),
    "below": ((0.45, 0.75, -0.4), (-0.7, -0.3, 0.3)),
}
_CENTRE, _EXTENT_M = (0.018, -0.006, 0.010), 0.245
_SIZE_PX = 250


@dataclass(frozen=True)
class _Look:
    """One picture: a pose by name, a view by name, and one shape component in sigmas."""

    pose: str
    view: str
    component: str = ""
    sigmas: float = 0.0

    @property
    def caption(self) -> str:
        if self.component:
            return f"{self.component} {self.sigmas:+.0f} sigma"
        return f"{self.pose}, {self.view}"


_SIDES = ("back", "palm", "thumb side", "little-finger side", "front", "above")
_ROWS = (
    tuple(_Look("rest", view) for view in _SIDES),
    tuple(
        _Look("fist", view) for view in ("back", "palm", "thumb side", "front", "above", "below")
    ),
    (
        _Look("spread", "palm"),
        _Look("pinch", "thumb side"),
        _Look("pinch", "below"),
        _Look("little-finger touch", "palm"),
        _Look("point", "below"),
        _Look("relaxed", "above"),
    ),
    (
        _Look("rest", "back", "size", -2),
        _Look("rest", "back", "size", 2),
        _Look("rest", "back", "long fingers, short palm", 3),
        _Look("rest", "back", "stout fingers", 3),
    ),
)


def _draw(looks: list[Mesh], view: str, *, centre: tuple, extent_m: float, caption: str) -> Picture:
    """One captioned picture."""
    direction, up = _VIEWS[view]
    picture = orthographic_view(
        looks, direction=direction, up=up, size_px=_SIZE_PX, centre=centre, extent_m=extent_m
    )
    image = Image.fromarray(picture)
    ImageDraw.Draw(image).text((6, 4), caption, fill="black", font=ImageFont.load_default(13))
    return np.array(image)


def _mesh(vertices: np.ndarray, faces: np.ndarray, colour: tuple[float, float, float]) -> Mesh:
    return Mesh(vertices, faces, np.tile(np.array(colour), (len(vertices), 1)))


def _one_hand(hand: RiggedHand, poses: dict[str, np.ndarray], look: _Look) -> Picture:
    betas = look.sigmas * (np.array(list(COMPONENTS)) == look.component)
    vertices = hand.shaped(betas).posed(poses[look.pose])
    mesh = _mesh(vertices, hand.faces, RIGHT_COLOUR)
    return _draw([mesh], look.view, centre=_CENTRE, extent_m=_EXTENT_M, caption=look.caption)


def _both_hands(hand: RiggedHand, poses: dict[str, np.ndarray], names: tuple[str, str]) -> Picture:
    """A right hand and, mirrored across z so that it points the same way, a left one."""
    right, left = (hand.posed(poses[name]) for name in names)
    offset = np.array([0.0, 0.0, 0.085])
    meshes = [
        _mesh(right - offset, hand.faces, RIGHT_COLOUR),
        _mesh(left * (1, 1, -1) + offset, hand.faces[:, ::-1], LEFT_COLOUR),
    ]
    caption = f"both hands: {names[1]}, {names[0]}"
    return _draw(meshes, "back", centre=(0.02, 0, 0), extent_m=0.33, caption=caption)


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description="Draw the embedded hand.")
    parser.add_argument("--out", type=Path, required=True, help="the PNG to write")
    arguments = parser.parse_args()
    hand = RiggedHand.from_model(embedded_hand_model())
    test = SelfIntersectionTest.of(hand.faces, hand.weights)
    poses = named_poses(Poser(rest_skeleton(), hand, test))
    rows = [[_one_hand(hand, poses, look) for look in row] for row in _ROWS]
    rows[-1] += [
        _both_hands(hand, poses, names) for names in (("relaxed", "spread"), ("thumb up", "fist"))
    ]
    save_png(contact_sheet(rows), arguments.out)


if __name__ == "__main__":
    main()
