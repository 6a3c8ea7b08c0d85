"""Tables of joints, a row a frame: CSV, and Parquet with the parameters beside them.

    frame_id                the frame's name
    right_index1_x_m, ...   SIDE_JOINT_AXIS_m: joints in metres, OpenCV's axes (`fitting.adapters.
                            table` reads them); nothing where the hand is absent

The option `order` names a joint order, which decides in what order the columns come and nothing
else: each one names its joint.

Parquet only: `sequence_id` and `timestamp` if the file has them, right_valid, left_valid, and of
each hand the columns right_global_orient_0 to _2, right_hand_pose_0 to _44 (axis-angle, mean pose
included), right_betas_0 ..., right_transl_0 to _2 (MANO's: wrist - J0).
"""

import csv
import importlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from fitting.errors import InputError
from fitting.exporters.frames import ExportFrames, PosedChunk
from mano_jax.files import write_whole
from mano_jax.joint_orders import JOINT_ORDERS, permutation
from mano_jax.model import SIDES

DEFAULT_ORDER: Final = "mano21"

_ROW_GROUP: Final = 1024
"""Rows that Parquet keeps together: with few, every column is many small pieces."""


def write_joints_csv(
    path: Path, frames: ExportFrames, *, order: str | None = None
) -> tuple[list[Path], list[str]]:
    """Write the table as CSV; returns the file, and nothing to say.

    Raises:
        InputError: an unknown joint order.
    """
    order = _known(order)
    write_whole(path, lambda file: _write_csv(file, frames, order))
    return [path], []


def write_parquet(
    path: Path, frames: ExportFrames, *, order: str | None = None
) -> tuple[list[Path], list[str]]:
    """Write the table as Parquet, with parameters; returns the file, and nothing to say.

    Raises:
        InputError: an unknown joint order, or there is no pyarrow.
    """
    order = _known(order)
    try:
        arrow, parquet = (importlib.import_module(n) for n in ("pyarrow", "pyarrow.parquet"))
    except ImportError as error:
        raise InputError(
            "parquet needs pyarrow: pip install 'manofit[parquet]' (or pyarrow); joints_csv needs "
            "nothing"
        ) from error
    write_whole(path, lambda file: _write_parquet(file, frames, order, arrow, parquet))
    return [path], []


def _known(order: str | None) -> str:
    order = DEFAULT_ORDER if order is None else order
    if order not in JOINT_ORDERS:
        raise InputError(f"unknown joint order {order!r}; known: {', '.join(JOINT_ORDERS)}")
    return order


def _joint_columns(order: str) -> list[str]:
    return [f"{s}_{j}_{axis}_m" for s in SIDES for j in JOINT_ORDERS[order] for axis in "xyz"]


def _joints(frames: ExportFrames, chunk: PosedChunk, order: str) -> np.ndarray:
    """The joints' columns of a chunk, (n, 126); NaN for an absent hand."""
    ordered = chunk.joints[:, :, permutation(DEFAULT_ORDER, order)]
    there = frames.valid[chunk.rows][:, :, None, None]
    return np.where(there, ordered, np.nan).reshape(len(ordered), -1)


def _write_csv(file: BinaryIO, frames: ExportFrames, order: str) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["frame_id", *_joint_columns(order)])
    for chunk in frames.posed():
        rows = _joints(frames, chunk, order).tolist()
        for name, row in zip(frames.names[chunk.rows].tolist(), rows, strict=True):
            writer.writerow([name, *("" if x != x else f"{x:.7f}" for x in row)])
    # Not closed: the file is its opener's.
    text.detach()


def _write_parquet(
    file: BinaryIO, frames: ExportFrames, order: str, arrow: Any, parquet: Any
) -> None:
    writer = None
    parameters = dict(_parameter_columns(frames))
    try:
        for chunk in frames.posed(chunk=_ROW_GROUP):
            columns = {name: values[chunk.rows] for name, values in parameters.items()}
            joints = _joints(frames, chunk, order).astype(np.float32)
            columns |= dict(zip(_joint_columns(order), joints.T, strict=True))
            # NaN is Parquet's number, null is what is not there.
            table = arrow.table({n: arrow.array(v, from_pandas=True) for n, v in columns.items()})
            writer = writer or parquet.ParquetWriter(file, table.schema)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _parameter_columns(frames: ExportFrames) -> Iterator[tuple[str, np.ndarray]]:
    """Every column but the joints', for all frames."""
    yield "frame_id", frames.names.astype(object)
    for name in ("sequence_id", "timestamp"):
        values = getattr(frames.source, name)
        if values is not None:
            yield name, values
    for hand, side in enumerate(SIDES):
        yield f"{side}_valid", frames.valid[:, hand]
    for hand, side in enumerate(SIDES):
        fields = {
            "global_orient": frames.global_orient,
            "hand_pose": frames.hand_pose,
            "betas": frames.betas,
            "transl": frames.transl,
        }
        for name, values in fields.items():
            flat = values[:, hand].reshape(frames.num_frames, -1).astype(np.float32)
            flat[~frames.valid[:, hand]] = np.nan
            for number, column in enumerate(flat.T):
                yield f"{side}_{name}_{number}", column
