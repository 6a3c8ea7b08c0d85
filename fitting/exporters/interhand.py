"""InterHand2.6M's MANO annotations (NeuralAnnot), one JSON file.

    {capture: {frame: {"right": {"pose": [48], "shape": [10], "trans": [3]} or null, "left": ...}}}

    pose    wrist, then fifteen finger joints, axis-angle; the fingers **without the mean pose**
    shape   betas
    trans   MANO's translation, metres: wrist - J0(betas)
    null    the frame does not have that hand

The data set's own are in its world's axes; these are in those of the frame's (first) camera: its
rotation is the identity here and its centre the origin. A `frame_id` of the form "capture/frame"
gives both keys; any other is the frame, of capture "0".
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fitting.errors import InputError
from fitting.exporters.frames import ExportFrames
from mano_jax.files import write_whole
from mano_jax.model import SIDES


def write_interhand(path: Path, frames: ExportFrames) -> tuple[list[Path], list[str]]:
    """Write the file; returns it, and nothing to say.

    Raises:
        InputError: two frames have the same capture and frame.
    """
    captures = _by_capture(frames)
    write_whole(path, lambda file: file.writelines(t.encode() for t in _text(frames, captures)))
    return [path], []


def _by_capture(frames: ExportFrames) -> dict[str, dict[str, int]]:
    """The number of each frame by its capture and frame, in the order of the file."""
    captures: dict[str, dict[str, int]] = {}
    for number, name in enumerate(frames.names.tolist()):
        capture, slash, frame = name.partition("/")
        if not slash or "/" in frame:
            capture, frame = "0", name
        numbers = captures.setdefault(capture, {})
        if frame in numbers:
            raise InputError(
                f"frame_id: frames {numbers[frame]} and {number} are both frame {frame!r} of "
                f"capture {capture!r}, but the format has one each: give every frame its own name"
            )
        numbers[frame] = number
    return captures


def _text(frames: ExportFrames, captures: dict[str, dict[str, int]]) -> Iterator[str]:
    """The file, a line a frame."""
    mean = np.asarray(frames.hands.pose_mean, np.float64)
    transl = frames.transl
    yield "{"
    for i, (capture, numbers) in enumerate(captures.items()):
        yield f"{',' if i else ''}\n{json.dumps(capture)}: {{"
        for j, (frame, n) in enumerate(numbers.items()):
            entry: dict[str, dict[str, list[float]] | None] = dict.fromkeys(SIDES)
            for hand, side in enumerate(SIDES):
                if not frames.valid[n, hand]:
                    continue
                fingers = (frames.hand_pose[n, hand] - mean[hand]).ravel()
                entry[side] = {
                    "pose": _numbers(np.concatenate([frames.global_orient[n, hand], fingers])),
                    "shape": _numbers(frames.betas[n, hand]),
                    "trans": _numbers(transl[n, hand]),
                }
            line = json.dumps(entry, allow_nan=False)
            yield f"{',' if j else ''}\n{json.dumps(frame)}: {line}"
        yield "\n}"
    yield "\n}\n"


def _numbers(values: np.ndarray) -> list[float]:
    """As many digits as float32 has."""
    return [float(f"{value:.9g}") for value in values.tolist()]
