"""The benchmark: true frames, predictions of them, and the files that hold both."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Final

import numpy as np
from tqdm import tqdm

from experiments.benchmark.detector import (
    DetectorNoise,
    fitting_camera,
    observe_exactly,
    observe_with_noise,
)
from experiments.benchmark.interactions import contact_type, draw_truth
from experiments.benchmark.measure import achieved
from experiments.benchmark.pose import Frame, stack, together
from experiments.benchmark.regressor import RegressorErrors, camera_with_error, predict
from experiments.benchmark.surfaces import Surface
from fitting.canonical import check_target, write_predictions
from fitting.errors import InputError
from fitting.predictions import TwoHandPredictions
from mano_jax.files import write_whole
from mano_jax.model import Hands

_FILES: Final = ("truth.npz", "predictions.npz", "benchmark.json")
_TRUTH, _REGRESSOR, _CAMERA, _DETECTOR = range(4)
"""Random streams of a frame: one does not move when another draws more numbers."""


def make_interactions(
    hands: Hands,
    *,
    frames: int,
    seed: int = 0,
    regressor: RegressorErrors | None = None,
    detector: DetectorNoise | None = None,
    progress: bool = False,
) -> tuple[TwoHandPredictions, TwoHandPredictions]:
    """Draw interactions and a regressor's predictions of them, both synthetic.

    Every frame has random generators of its own: frame i is the same whatever the number of
    frames, and other noise of the detector changes `joints_3d` and `keypoints_2d` only.

    Args:
        hands: the model whose pose samples, or mean pose and components, are used.
        frames: how many.
        seed: of all randomness.
        regressor: sizes of the predictions' errors; None takes the defaults.
        detector: noise of the predictions' joints and keypoints; None takes the defaults.
        progress: show a progress bar.

    Returns:
        Truth (parameters, noise-free joints and keypoints of confidence 1) and predictions
        (parameters with errors, noisy joints and keypoints, some of confidence 0). A frame's
        `frame_id` begins with its contact type, see `frame_type`.

    Raises:
        InputError: no frame asked for, or a negative seed.
        ValueError: a hand model with which no contact can be found.
    """
    if frames < 1:
        raise InputError(f"--frames: expected at least one frame, found {frames}")
    if seed < 0:
        raise InputError(f"--seed: expected 0 or more, found {seed}")
    regressor, detector = regressor or RegressorErrors(), detector or DetectorNoise()
    surface = Surface.of(hands)

    def draw(number: int) -> Frame:
        rng = np.random.default_rng([seed, number, _TRUTH])
        return draw_truth(hands, surface, rng, contact_type(number))

    # NumPy and SciPy let other threads run for about half of what a frame takes: more are no use.
    pool = ThreadPoolExecutor(min(3, os.cpu_count() or 1))
    try:
        drawn = pool.map(draw, range(frames))
        truths = list(tqdm(drawn, total=frames, unit="frame", disable=not progress))
    finally:
        # Who interrupts waits for the frames under way, not for those that have not begun.
        pool.shutdown(cancel_futures=True)

    names, starts, exact, noisy = [], [], [], []
    for number, truth in enumerate(truths):
        vertices, joints = together(hands, truth)
        camera = fitting_camera(vertices.reshape(-1, 3))
        names.append(f"{contact_type(number).name}-{seed}-{number:05d}")
        exact.append(observe_exactly(joints, camera))
        start, seen = _predicted(
            hands, truth, joints, camera, regressor, detector, seed=seed, number=number
        )
        starts.append(start)
        noisy.append(seen)
    frame_id = np.array(names)
    return (
        TwoHandPredictions(**stack(truths), **_stack(exact), frame_id=frame_id),
        TwoHandPredictions(**stack(starts), **_stack(noisy), frame_id=frame_id),
    )


def predicted_again(
    hands: Hands,
    truth: TwoHandPredictions,
    *,
    regressor: RegressorErrors | None = None,
    detector: DetectorNoise | None = None,
    seed: int = 0,
) -> TwoHandPredictions:
    """What a regressor and a detector say of these frames, drawn anew.

    A true frame that is there several times is predicted several times: figures over many draws
    need not wait for as many interactions. The frames get no names, for they may be the same.
    `make_interactions` of the same seed draws the same errors for its frames.

    Args:
        hands: the model of the truth.
        truth: true frames, as `make_interactions` returns them.
        regressor: sizes of the predictions' errors; None takes the defaults.
        detector: noise of the predictions' joints and keypoints; None takes the defaults.
        seed: of these draws.
    """
    assert truth.joints_3d is not None and truth.weak_camera is not None, "a truth has them"
    regressor, detector = regressor or RegressorErrors(), detector or DetectorNoise()
    starts, noisy = [], []
    for number in range(truth.num_frames):
        wide = {x.name: getattr(truth, x.name)[number].astype(np.float64) for x in fields(Frame)}
        joints = truth.joints_3d[number, ..., :3].astype(np.float64)
        camera = truth.weak_camera[number].astype(np.float64)
        start, seen = _predicted(
            hands, Frame(**wide), joints, camera, regressor, detector, seed=seed, number=number
        )
        starts.append(start)
        noisy.append(seen)
    return TwoHandPredictions(**stack(starts), **_stack(noisy))


def _predicted(
    hands: Hands,
    truth: Frame,
    joints: np.ndarray,
    camera: np.ndarray,
    regressor: RegressorErrors,
    detector: DetectorNoise,
    *,
    seed: int,
    number: int,
) -> tuple[Frame, dict[str, np.ndarray]]:
    """Parameters with errors; the camera with its error and the noisy targets."""
    errors, off, noise = (
        np.random.default_rng([seed, number, stream]) for stream in (_REGRESSOR, _CAMERA, _DETECTOR)
    )
    return predict(hands, errors, truth, joints, regressor), {
        "weak_camera": camera_with_error(off, camera, regressor),
        **observe_with_noise(joints, camera, detector, noise),
    }


def observed_again(
    truth: TwoHandPredictions,
    predictions: TwoHandPredictions,
    *,
    detector: DetectorNoise,
    seed: int = 0,
) -> TwoHandPredictions:
    """The predictions with the targets that another noise of the detector gives.

    What `make_interactions` of the same seed makes with that detector, without drawing the
    interactions anew.

    Args:
        truth: all frames of a benchmark, from the first on.
        predictions: of the same frames.
        detector: noise of the new joints and keypoints.
        seed: the benchmark's.
    """
    assert truth.joints_3d is not None and truth.weak_camera is not None, "a truth has them"
    targets = [
        observe_with_noise(
            joints[..., :3],
            camera,
            detector,
            np.random.default_rng([seed, number, _DETECTOR]),
        )
        for number, (joints, camera) in enumerate(
            zip(truth.joints_3d, truth.weak_camera, strict=True)
        )
    ]
    return replace(predictions, **_stack(targets))


def frame_type(frame_id: str) -> str:
    """The contact type that a frame's name begins with."""
    return str(frame_id).split("-")[0]


def write_benchmark(
    folder: Path,
    hands: Hands,
    *,
    frames: int,
    seed: int = 0,
    regressor: RegressorErrors | None = None,
    detector: DetectorNoise | None = None,
    hand_model: str = "",
    force: bool = False,
    progress: bool = False,
) -> list[Path]:
    """Write `truth.npz`, `predictions.npz` and `benchmark.json`, which says how they were made.

    The same arguments give the same bytes on the same machine.

    Args:
        folder: where; made if need be.
        hands: the hand model.
        frames: how many frames.
        seed: of all randomness.
        regressor: sizes of the predictions' errors; None takes the defaults.
        detector: noise of the predictions' joints and keypoints; None takes the defaults.
        hand_model: fingerprint of the hand model, for the record.
        force: replace files that are there.
        progress: show a progress bar.

    Returns:
        The files written.

    Raises:
        InputError: a file is there and may not be replaced, or as for `make_interactions`.
    """
    paths = [Path(folder) / name for name in _FILES]
    for path in paths:
        check_target(path, (path.suffix,), overwrite=force)
    regressor, detector = regressor or RegressorErrors(), detector or DetectorNoise()
    truth, predictions = make_interactions(
        hands, frames=frames, seed=seed, regressor=regressor, detector=detector, progress=progress
    )
    write_predictions(paths[0], truth, overwrite=force)
    write_predictions(paths[1], predictions, overwrite=force)
    record = {
        "data": "synthetic",
        "frames": frames,
        "seed": seed,
        "hand_model": hand_model,
        "regressor": asdict(regressor),
        "detector": asdict(detector),
        "achieved": achieved(hands, truth, predictions),
    }
    text = json.dumps(record, indent=2) + "\n"
    write_whole(paths[2], lambda file: file.write(text.encode()))
    return paths


def _stack(records: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([record[name] for record in records]) for name in records[0]}
