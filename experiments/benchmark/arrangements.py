"""The contact types as data: how two hands lie to each other, and what their fingers do.

Directions are in axes of the right palm: 0 forward (wrist to middle finger), 1 towards the thumb,
2 out of the palm. Frame i takes type i modulo their number.
"""

from dataclasses import dataclass
from math import cos, radians, sin
from typing import Final


@dataclass(frozen=True)
class Arrangement:
    """How the left hand lies to the right one."""

    forward: tuple[float, float, float]
    """Where the left hand's fingers point."""
    palm: tuple[float, float, float]
    """Where its palm faces."""
    approach: tuple[float, float, float]
    """The way in which it slides until it touches."""
    turn_deg: float
    """Greatest extra turn about `approach`, to either side."""
    reach: tuple[tuple[float, float], tuple[float, float]]
    """How far from the wrist to the middle fingertip the two meet: ranges for right and left."""
    aside_m: tuple[float, float] = (0.0, 0.02)
    """How far the meeting points lie apart across the approach, to either side: a range."""
    tilt_deg: float = 10.0
    """Standard deviation of a random turn about each axis."""


@dataclass(frozen=True)
class ContactType:
    """One way of touching: arrangements to choose from, and the fingers that suit them."""

    name: str
    """As in `frame_id`."""
    arrangements: tuple[Arrangement, ...]
    """One of these is drawn for each attempt."""
    openness: tuple[float, float]
    """Which of the drawn poses serve, by rank: 0 the most curled, 1 the most open."""
    flattened: float = 0.0
    """Share by which the fingers are straightened."""
    likeness: float = 0.0
    """How much the left pose is the right one's mirror image, 0 to 1."""
    spread_deg: float = 0.0
    """Angle by which neighbouring fingers are spread further apart."""
    closing: tuple[int, ...] = ()
    """Hands whose fingers close until they touch, in this order: 0 right, 1 left."""
    segments: tuple[int, ...] = (0, 1, 2, 3)
    """What counts as touching when placements are compared: 0 palm, 1 to 3 a finger's segments."""
    pull: float = 0.0
    """What a millimetre between the middle knuckles costs, in near vertices: fingers go deep."""
    least_counted: int = 1
    """At least so many of the left hand's vertices must touch in this sense, within 1 cm."""
    least_near: int = 100
    """Of 1556 vertices, at least so many lie within 1 cm of the other hand: fewer is a graze."""


def _roof(
    angle_deg: float, reach: tuple[float, float], aside_m: tuple[float, float]
) -> Arrangement:
    """Two hands like a roof: palms facing at an angle, fingers meeting at the ridge."""
    c, s = cos(radians(angle_deg)), sin(radians(angle_deg))
    # Each hand moves along its own fingers: the left one comes by the difference.
    return Arrangement((c, 0, -s), (-s, 0, -c), (c - 1, 0, -s), 6, (reach, reach), aside_m, 4)


CONTACT_TYPES: Final = (
    ContactType(
        "fingertips",
        tuple(_roof(angle, (0.97, 1.0), (0.0, 0.006)) for angle in (60, 80, 100)),
        openness=(0.4, 1.0),
        likeness=0.85,
        segments=(3,),
        least_counted=30,
        least_near=24,
    ),
    ContactType(
        "interlocked",
        tuple(_roof(angle, (0.7, 0.95), (0.008, 0.018)) for angle in (75, 90, 105)),
        openness=(0.6, 1.0),
        flattened=0.5,
        likeness=0.95,
        spread_deg=18,
        closing=(0, 1),
        segments=(1, 2),
        pull=2.0,
        least_counted=25,
    ),
    ContactType(
        "clasp",
        (
            Arrangement((0, -1, 0), (0, 0, -1), (0, 0, -1), 30, ((0.35, 0.6), (0.45, 0.7))),
            Arrangement((0.6, -0.8, 0), (0, 0, -1), (0, 0, -1), 25, ((0.35, 0.6), (0.4, 0.65))),
            Arrangement((0, -1, 0), (0, 0, -1), (0, 0, -1), 25, ((0.6, 0.85), (0.45, 0.65))),
        ),
        openness=(0.3, 0.9),
        closing=(1, 0),
    ),
    ContactType(
        "palms",
        (
            Arrangement(
                forward=(1, 0, 0),
                palm=(0, 0, -1),
                approach=(0, 0, -1),
                turn_deg=25,
                reach=((0.42, 0.52), (0.42, 0.52)),
                aside_m=(0.0, 0.01),
                tilt_deg=5,
            ),
        ),
        openness=(0.5, 1.0),
        flattened=0.8,
        likeness=0.85,
        segments=(0, 1, 2),
        least_counted=55,
    ),
    ContactType(
        "back",
        (
            Arrangement((0, -1, 0), (0, 0, 1), (0, 0, 1), 50, ((0.25, 0.65), (0.3, 0.6))),
            Arrangement((0, 1, 0), (0, 0, 1), (0, 0, 1), 50, ((0.25, 0.65), (0.3, 0.6))),
        ),
        openness=(0.3, 1.0),
        flattened=0.3,
        closing=(1,),
    ),
)
"""Fingertips touching, interlocked fingers, clasp, palm on palm, hand over the back of a hand."""

TYPE_NAMES: Final = tuple(kind.name for kind in CONTACT_TYPES)
