"""Project Aria, machine perception services: `hand_tracking_results.csv`, versions 1 and 2.

Conventions, as the service documents them; the bone lengths of its example recordings agree:

    landmarks     21: the fingertips from the thumb on, the wrist, the thumb's two outer joints,
                  three joints of every other finger from the knuckle on, the palm's centre. The
                  thumb's first joint is not tracked
    units         metres, in the device's frame, which both hands share; microseconds
    missing hand  confidence -1 (or empty), landmarks all zero
"""

from pathlib import Path
from typing import Final

import numpy as np

from fitting.adapters.csv_files import read_csv
from fitting.adapters.formats import Conventions, Conversion, Format
from fitting.adapters.landmarks import from_landmarks
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.joint_orders import FINGERS
from mano_jax.model import SIDES

CONVENTIONS: Final = Conventions(
    rotations="none",
    mean="none",
    left="native",
    left_shapedirs="none",
    origin="none",
    axes="device",
    joint_order="by name",
)

LANDMARKS: Final = (
    *(f"{finger}_tip" for finger in FINGERS),
    "wrist",
    *("thumb2", "thumb3"),
    *(f"{finger}{i}" for finger in FINGERS[1:] for i in (1, 2, 3)),
    "palm",
)
"""What the landmarks 0 to 20 are."""

_TIME: Final = "tracking_timestamp_us"


def read_aria(path: Path) -> TwoHandPredictions:
    """Read the tracked landmarks of both hands; a row without a hand stays a frame without one.

    Raises:
        InputError: no such file, a column is missing, or a cell is no number.
    """
    columns = [_TIME]
    for side in SIDES:
        columns.append(f"{side}_tracking_confidence")
        columns += [
            f"t{axis}_{side}_landmark_{i}_device" for i in range(len(LANDMARKS)) for axis in "xyz"
        ]
    table = _columns(Path(path), columns)
    time, by_hand = table[:, 0], table[:, 1:].reshape(len(table), 2, -1)
    tracked = by_hand[:, :, :1] > 0
    return from_landmarks(
        by_hand[:, :, 1:].reshape(len(table), 2, len(LANDMARKS), 3),
        np.where(tracked, by_hand[:, :, :1], 0.0) * np.ones(len(LANDMARKS)),
        LANDMARKS,
        frame_id=np.array([f"{t:.0f}" for t in time]),
        sequence_id=np.zeros(len(table), np.int64),
        timestamp=1e-6 * time,
    )


def _columns(path: Path, columns: list[str]) -> np.ndarray:
    """Columns of the file, as (rows, columns) numbers; an empty cell is NaN."""
    header, rows = read_csv(path)
    if missing := [name for name in columns if name not in header]:
        raise InputError(
            f"{path}: no column {missing[0]!r} (of {len(missing)} that are missing); is it the "
            f"format that --from names? It has {', '.join(header[:4])}, ..."
        )
    places = [header.index(name) for name in columns]
    found = [
        [_number(path, number, row, header, place) for place in places]
        for number, row in enumerate(rows, start=2)
    ]
    return np.array(found, np.float64)


def _number(path: Path, line: int, row: list[str], header: list[str], place: int) -> float:
    text = row[place].strip() if place < len(row) else None
    try:
        if text is not None:
            return float(text) if text else np.nan
    except ValueError:
        pass
    found = "a row that ends before it" if text is None else repr(text)
    raise InputError(f"{path}, line {line}, {header[place]}: expected a number, found {found}")


ARIA: Final = Format(
    "aria",
    "Project Aria's hand tracking results",
    lambda path, _: Conversion(read_aria(path)),
    suffixes=(".csv",),
    keys=(frozenset({_TIME, "tx_right_landmark_0_device"}),),
    conventions=CONVENTIONS,
)
