"""HO-3D and H2O-3D: a pickle a frame, `meta/0000.pkl`, and `frames.json` with each one's name.

A frame with the right hand only has HO-3D's keys:

    handPose (48,)         wrist, then fingers, axis-angle, **mean pose included**
    handTrans (3,)         MANO's translation, metres
    handBeta (10,)
    handJoints3D (21, 3)   `mano21` order, fingertips 744, 333, 444, 555, 672
    camMat (3, 3)          intrinsics, pixels, where the file has `K`

one with a left hand H2O-3D's: leftHandPose, leftHandTrans, leftHandJoints3D and, where there is a
right hand too, the same of `right`; `handBeta` and `camMat` are shared. Axes are OpenGL's (x right,
y up, z backward): with C = diag(1, -1, -1), orientation C R, points C X, and

    trans = C wrist - J0(betas)

H2O-3D turns the sign of all the left hand's `shapedirs`, and gives both hands one `handBeta`, so a
left hand's shape cannot be told exactly. `handBeta` is the right hand's, zero in a frame without
one, and `leftHandTrans` puts the wrist of the left hand that H2O-3D's own model makes of it in its
place; `leftHandJoints3D` are exact.

Pickles of protocol 2 hold plain NumPy arrays under the module names of NumPy 1, which every NumPy
reads, in Python 2 and 3.
"""

import pickle
from pathlib import Path
from typing import Final

import numpy as np

from fitting.exporters.folders import FolderFiles, frame_stem, write_folder
from fitting.exporters.frames import TO_OPENGL, ExportFrames
from mano_jax.joint_orders import fingertip_vertices
from mano_jax.model import SIDES

_LEFT_SHAPES: Final = np.array([1.0, -1.0, -1.0])
"""What H2O-3D's left `shapedirs` are times the right ones: the official left file lacks the
mirror's sign in x, and then all signs are turned."""


def write_ho3d(path: Path, frames: ExportFrames) -> tuple[list[Path], list[str]]:
    """Write the folder; returns its files, and what the format could not hold."""
    files = write_folder(path, lambda folder: _write(folder, frames))
    return files, _notes(frames)


def _notes(frames: ExportFrames) -> list[str]:
    notes = []
    if left := int(frames.valid[:, 1].sum()):
        notes.append(
            f"the betas of {left} left hands are not told: H2O-3D has one handBeta for both hands "
            "(the right one's here) and other left shape directions; leftHandJoints3D are exact"
        )
    if frames.source.K is None:
        notes.append("no camMat: the file has no K")
    elif frames.source.num_views > 1:
        notes.append("camMat is the first view's; the others are not told")
    if frames.source.distortion is not None and np.any(frames.source.distortion):
        notes.append("the format has no distortion: the camera's is not told")
    return notes


def _write(folder: Path, frames: ExportFrames) -> FolderFiles:
    (folder / "meta").mkdir()
    tips = fingertip_vertices("ho3d")
    orient = frames.rotation_opengl.as_rotvec().reshape(-1, 2, 3)
    rest = _rest_wrists(frames)
    transl = frames.wrists * TO_OPENGL - rest
    names: FolderFiles = {}
    for chunk in frames.posed():
        joints = chunk.joints * TO_OPENGL
        for hand in range(2):
            joints[:, hand, 16:] = chunk.vertices[:, hand, tips[hand]] * TO_OPENGL
        for i, n in enumerate(range(frames.num_frames)[chunk.rows]):
            if not frames.valid[n].any():
                continue
            content = {"handBeta": frames.betas[n, 0]}
            if frames.source.K is not None:
                content["camMat"] = frames.source.K[n, 0]
            for hand, side in enumerate(SIDES):
                if not frames.valid[n, hand]:
                    continue
                key = f"{side}Hand" if frames.valid[n, 1] else "hand"
                pose = np.concatenate([orient[n, hand], frames.hand_pose[n, hand].ravel()])
                content[f"{key}Pose"] = pose
                content[f"{key}Trans"] = transl[n, hand]
                content[f"{key}Joints3D"] = joints[i, hand]
            stem = frame_stem(n)
            (folder / "meta" / f"{stem}.pkl").write_bytes(_pickled(content))
            names[stem] = str(frames.names[n])
    return names


def _rest_wrists(frames: ExportFrames) -> np.ndarray:
    """J0 of the hands that the format's own models make of `handBeta`, (N, 2, 3)."""
    rest = frames.rest_wrists
    template, directions = (
        np.asarray(x, np.float64)[1, 0] for x in (frames.hands.J_template, frames.hands.J_shapedirs)
    )
    # The file's raw left directions are the right hand's, and the mirror changes x only.
    h2o3d = directions * _LEFT_SHAPES[:, None]
    rest[:, 1] = template + frames.betas[:, 0] @ h2o3d.T
    return rest


def _pickled(content: dict[str, np.ndarray]) -> bytes:
    plain = {name: np.ascontiguousarray(array, np.float32) for name, array in content.items()}
    return pickle.dumps(plain, protocol=2).replace(b"cnumpy._core.", b"cnumpy.core.")
