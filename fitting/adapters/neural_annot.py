"""NeuralAnnot's hands of InterHand2.6M, and what is written in their format: one JSON file.

    {capture: {frame: {"right": {"pose": [48], "shape": [10], "trans": [3]} or null, "left": ...}}}

World axes, metres; trans is MANO's translation. With the whole data set on disk the adapter
`interhand` reads cameras and images too.

Sources: tool/MANO_render/render.py of facebookresearch/InterHand2.6M.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np

from fitting.adapters.containers import read_tree
from fitting.adapters.formats import Conventions, Conversion, Reading
from fitting.adapters.poses import LEFT, RIGHT, placed, rest_wrists, two_hand_parameters
from fitting.adapters.records import Record
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.model import SIDES

CONVENTIONS: Final = Conventions(
    rotations="axis-angle",
    mean="excluded",
    left="native",
    left_shapedirs="mirrored",
    origin="MANO",
    camera="world",
    axes="world",
    joint_order="interhand21",
    two_hands="together",
)

_SHAPES: Final = {"pose": (48,), "shape": (10,), "trans": (3,)}


def read_neural_annot(path: Path, reading: Reading) -> Conversion:
    """Read every frame of one file; frame ids are CAPTURE/FRAME.

    Raises:
        InputError: another structure, or a missing or misshapen entry.
    """
    frames = list(_frames(Path(path)))
    valid = np.array([[hand is not None for hand in hands] for _, hands in frames])
    zeros = {key: np.zeros(shape) for key, shape in _SHAPES.items()}
    rows = {
        key: np.array([[(hand or zeros)[key] for hand in hands] for _, hands in frames])
        for key in _SHAPES
    }
    pose, count = rows["pose"], len(frames)
    parameters, _ = two_hand_parameters(
        CONVENTIONS, reading.hands, valid, pose[..., :3], pose[..., 3:], rows["shape"]
    )
    side = np.tile([RIGHT, LEFT], count)
    j0 = rest_wrists(CONVENTIONS, reading.hands, side, rows["shape"].reshape(-1, 10))
    wrists = rows["trans"] + j0.reshape(count, 2, 3)
    predictions = TwoHandPredictions(
        hand_valid=valid,
        **parameters,
        **placed(wrists, valid),
        frame_id=np.array([name for name, _ in frames], dtype=str),
    )
    return Conversion(predictions, ("the hands are in the world's axes: there is no camera",))


def _frames(path: Path) -> Any:
    """Name and hands, right first, of every frame."""
    tree, some = read_tree(path), False
    for capture, frames in _dictionary(path, "the content", tree).items():
        for frame, hands in _dictionary(path, capture, frames).items():
            where = f"{capture}/{frame}"
            given = _dictionary(path, where, hands)
            if not set(given) & set(SIDES):
                raise InputError(
                    f"{path}: {where}: expected right and left, found "
                    f"{', '.join(list(given)[:12]) or 'nothing'}"
                )
            some = True
            yield where, [_hand(path, f"{where}/{side}", given.get(side)) for side in SIDES]
    if not some:
        raise InputError(f"{path}: expected a frame at least, found none")


def _hand(path: Path, where: str, hand: Any) -> dict[str, np.ndarray] | None:
    if hand is None:
        return None
    record = Record(path, where, _dictionary(path, where, hand))
    return {key: record.needed(key, shape) for key, shape in _SHAPES.items()}


def _dictionary(path: Path, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{path}: {where}: expected a dictionary, found {type(value).__name__}")
    return value
