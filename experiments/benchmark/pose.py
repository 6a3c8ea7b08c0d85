"""One frame's hands: their parameters, and the hand model applied to them."""

from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.transform import Rotation

from mano_jax.joint_orders import index
from mano_jax.model import Hands, assemble, pose_hands, pose_joints


@dataclass(frozen=True)
class Frame:
    """Both hands' parameters, as NumPy arrays without a frame axis."""

    global_orient: Float[np.ndarray, "2 3"]
    hand_pose: Float[np.ndarray, "2 15 3"]
    betas: Float[np.ndarray, "2 S"]
    relative_transl: Float[np.ndarray, "3"]


def stack(frames: list[Frame]) -> dict[str, np.ndarray]:
    """The frames' fields by their canonical names, with a frame axis and `hand_valid`."""
    stacked = {x.name: np.stack([getattr(f, x.name) for f in frames]) for x in fields(Frame)}
    return {"hand_valid": np.ones((len(frames), 2), bool), **stacked}


def turned(frame: Frame, turn: Rotation) -> Frame:
    """The same hands turned together about the right wrist."""
    return Frame(
        global_orient=(turn * Rotation.from_rotvec(frame.global_orient)).as_rotvec(),
        hand_pose=frame.hand_pose,
        betas=frame.betas,
        relative_transl=turn.apply(frame.relative_transl),
    )


def together(
    hands: Hands, frame: Frame
) -> tuple[Float[np.ndarray, "2 V 3"], Float[np.ndarray, "2 21 3"]]:
    """Vertices and joints of both hands, origin at the right wrist, metres."""
    parameters = {f.name: jnp.asarray(getattr(frame, f.name), jnp.float32) for f in fields(frame)}
    vertices, joints = _assembled(hands, **parameters)
    return np.asarray(vertices, np.float64), np.asarray(joints, np.float64)


def joints_of_poses(
    hands: Hands, hand_pose: Float[np.ndarray, "K 2 15 3"]
) -> Float[np.ndarray, "K 2 21 3"]:
    """Joints of many finger poses at the mean shape, wrists at the origin."""
    return np.asarray(_joints(hands, jnp.asarray(hand_pose, jnp.float32)), np.float64)


def vertices_of_poses(
    hands: Hands, hand_pose: Float[np.ndarray, "K 2 15 3"], betas: Float[np.ndarray, "2 S"]
) -> Float[np.ndarray, "K 2 V 3"]:
    """Surfaces of many finger poses of one person's hands, wrists at the origin."""
    single = (jnp.asarray(x, jnp.float32) for x in (hand_pose, betas))
    return np.asarray(_vertices(hands, *single), np.float64)


def palm_axes(joints: Float[np.ndarray, "21 3"], hand: int) -> Float[np.ndarray, "3 3"]:
    """Columns: forward (wrist to middle finger), towards the thumb, out of the palm.

    The right hand's three are left-handed, the left hand's right-handed.
    """
    forward = unit(joints[index("middle1")] - joints[index("wrist")])
    across = joints[index("index1")] - joints[index("pinky1")]
    across = unit(across - (across @ forward) * forward)
    palm = np.cross(across, forward) if hand == 0 else np.cross(forward, across)
    return np.stack([forward, across, palm], axis=1)


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector over its length."""
    return vector / np.linalg.norm(vector)


@jax.jit
def _assembled(hands: Hands, *, relative_transl: Array, **pose: Array) -> tuple[Array, Array]:
    posed = pose_hands(hands, **pose)
    wrists, right_anchor = posed.joints[:, 0], jnp.zeros((), bool)
    return (
        assemble(posed.vertices, wrists, relative_transl, right_anchor),
        assemble(posed.joints, wrists, relative_transl, right_anchor),
    )


@jax.jit
def _joints(hands: Hands, hand_pose: Array) -> Array:
    none = jnp.zeros((*hand_pose.shape[:2], 3), hand_pose.dtype)
    betas = jnp.zeros((*hand_pose.shape[:2], hands.num_betas), hand_pose.dtype)
    joints = pose_joints(hands, global_orient=none, hand_pose=hand_pose, betas=betas)
    return joints - joints[:, :, :1]


@jax.jit
def _vertices(hands: Hands, hand_pose: Array, betas: Array) -> Array:
    none = jnp.zeros((*hand_pose.shape[:2], 3), hand_pose.dtype)
    many = jnp.broadcast_to(betas, (len(hand_pose), *betas.shape))
    posed = pose_hands(hands, global_orient=none, hand_pose=hand_pose, betas=many)
    return posed.vertices - posed.joints[:, :, :1]
