"""Make the embedded hand and write it as an npz with MANO's key names.

    python -m experiments.embedded_hand.make --out mano_jax/data/embedded_hand.npz

Takes about two minutes on one core. Every random draw is seeded, and a second run on the same
machine writes the same numbers; across machines rounding may end in another mesh.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.embedded_hand.contact import Poser
from experiments.embedded_hand.intersections import SelfIntersectionTest
from experiments.embedded_hand.numbering import renumber
from experiments.embedded_hand.poses import named_poses, principal_components, sample_poses
from experiments.embedded_hand.posing import RiggedHand
from experiments.embedded_hand.remesh import mesh_field
from experiments.embedded_hand.rig import nearest_bones, rig
from experiments.embedded_hand.shapes import shape_directions
from experiments.embedded_hand.skeleton import PARENTS, Skeleton, rest_skeleton
from experiments.embedded_hand.surface import skin_field

POSE_COUNT = 520
_SEED = 7
# What MANO's own tables hold in the root's place: -1 as an unsigned 32-bit number.
_NO_PARENT = 2**32 - 1


def build_hand() -> tuple[Skeleton, RiggedHand]:
    """Skeleton, mesh, rig and shape components."""
    skeleton = rest_skeleton()
    vertices, faces = mesh_field(skin_field(skeleton), skeleton)
    parts = nearest_bones(vertices, skeleton)
    vertices, faces, _ = renumber(vertices, faces, parts, skeleton)
    hand = rig(vertices, faces, skeleton)
    return skeleton, replace(hand, shapedirs=shape_directions(hand, skeleton))


def arrays_of(hand: RiggedHand, poses: np.ndarray) -> dict[str, np.ndarray]:
    """The hand under MANO's key names; float32, but half precision for the pose correctives.

    Correctives are a few millimetres, so half precision rounds them by at most two micrometres
    and saves half of the file.
    """
    mean, components, coefficients = principal_components(poses)
    parents = np.array([_NO_PARENT, *PARENTS[1:]], np.int64)
    single = {
        "v_template": hand.v_template,
        "shapedirs": hand.shapedirs,
        "J_regressor": hand.J_regressor,
        "weights": hand.weights,
        "hands_components": components,
        "hands_mean": mean,
        "hands_coeffs": coefficients,
    }
    return {
        **{key: value.astype(np.float32) for key, value in single.items()},
        "posedirs": hand.posedirs.astype(np.float16),
        "f": hand.faces.astype(np.uint32),
        "kintree_table": np.stack([parents, np.arange(16)]),
    }


def main() -> None:
    """Build, pose, write."""
    parser = argparse.ArgumentParser(description="Make the embedded hand.")
    parser.add_argument("--out", type=Path, required=True, help="the npz to write")
    parser.add_argument("--poses", type=int, default=POSE_COUNT, help="how many pose samples")
    arguments = parser.parse_args()
    skeleton, hand = build_hand()
    poser = Poser(skeleton, hand, SelfIntersectionTest.of(hand.faces, hand.weights))
    named = np.array([pose.ravel() for pose in named_poses(poser).values()])
    drawn = sample_poses(poser, arguments.poses - len(named), seed=_SEED)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arrays = arrays_of(hand, np.concatenate([named, drawn]))
    np.savez_compressed(arguments.out, allow_pickle=False, **arrays)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
