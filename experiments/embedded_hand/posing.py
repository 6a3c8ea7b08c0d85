"""Posing in plain NumPy, one hand at a time: what the generator needs to look at its own work."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation

from experiments.embedded_hand.skeleton import PARENTS
from mano_jax.model import HandModel

Pose = Float[np.ndarray, "15 3"]
Vertices = Float[np.ndarray, "v 3"]


@dataclass(frozen=True)
class RiggedHand:
    """A MANO-format hand while it is being made; the arrays are named as in MANO's files.

    Attributes:
        v_template: rest vertices, metres.
        faces: outward wound, open at the wrist.
        weights: skinning weights, rows sum to one.
        J_regressor: joints = J_regressor @ vertices.
        posedirs: metres per entry of the 15 matrices R - I, row-major.
        shapedirs: metres per standard deviation.
    """

    v_template: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    weights: Float[np.ndarray, "v 16"]
    J_regressor: Float[np.ndarray, "16 v"]
    posedirs: Float[np.ndarray, "v 3 135"]
    shapedirs: Float[np.ndarray, "v 3 10"]

    @classmethod
    def from_model(cls, model: HandModel) -> "RiggedHand":
        """Take a loaded hand."""
        return cls(
            v_template=model.v_template,
            faces=model.faces,
            weights=model.lbs_weights,
            J_regressor=model.J_regressor,
            posedirs=model.posedirs,
            shapedirs=model.shapedirs,
        )

    @property
    def joints(self) -> Float[np.ndarray, "16 3"]:
        """Rest joints, metres."""
        return self.J_regressor @ self.v_template

    def shaped(self, betas: Float[np.ndarray, "10"]) -> "RiggedHand":
        """The same hand with another rest shape."""
        return replace(self, v_template=self.v_template + self.shapedirs @ betas)

    def posed(self, pose: Pose, *, rows: Int[np.ndarray, "r"] | None = None) -> Vertices:
        """Vertices under absolute axis-angle rotations (radians), wrist at rest.

        Args:
            pose: rotations of the joints 1..15.
            rows: pose these vertices alone.
        """
        rotations = Rotation.from_rotvec(np.asarray(pose).reshape(15, 3)).as_matrix()
        bones = bone_transforms(rotations, self.joints)
        rows = np.arange(len(self.v_template)) if rows is None else rows
        corrections = self.posedirs[rows] @ (rotations - np.eye(3)).ravel()
        return skin(self.v_template[rows] + corrections, self.weights[rows], bones)


def bone_transforms(
    rotations: Float[np.ndarray, "15 3 3"], joints: Float[np.ndarray, "16 3"]
) -> Float[np.ndarray, "16 3 4"]:
    """Rest-to-posed transforms of all bones; the wrist's is the identity."""
    turn, place = np.empty((16, 3, 3)), joints.copy()
    turn[0] = np.eye(3)
    for joint in range(1, 16):
        parent = PARENTS[joint]
        turn[joint] = turn[parent] @ rotations[joint - 1]
        place[joint] = place[parent] + turn[parent] @ (joints[joint] - joints[parent])
    shift = place - np.einsum("jab,jb->ja", turn, joints)
    return np.concatenate([turn, shift[:, :, None]], axis=2)


def skin(
    vertices: Vertices, weights: Float[np.ndarray, "v 16"], bones: Float[np.ndarray, "16 3 4"]
) -> Vertices:
    """Linear blend skinning."""
    blended = np.einsum("vj,jab->vab", weights, bones)
    return np.einsum("vab,vb->va", blended[:, :, :3], vertices) + blended[:, :, 3]


def dual_quaternion_skin(
    vertices: Vertices, weights: Float[np.ndarray, "v 16"], bones: Float[np.ndarray, "16 3 4"]
) -> Vertices:
    """Dual quaternion skinning (Kavan et al., 2007), which keeps the volume of a bent joint."""
    real = Rotation.from_matrix(bones[:, :, :3]).as_quat()
    real[real @ real[0] < 0] *= -1
    shift = np.concatenate([bones[:, :, 3], np.zeros((len(bones), 1))], axis=1)
    dual = 0.5 * _quaternion_product(shift, real)
    r, d = weights @ real, weights @ dual
    size = np.linalg.norm(r, axis=1, keepdims=True)
    r, d = r / size, d / size
    move = 2 * _quaternion_product(d, r * np.array([-1, -1, -1, 1]))[:, :3]
    return Rotation.from_quat(r).apply(vertices) + move


def _quaternion_product(
    a: Float[np.ndarray, "n 4"], b: Float[np.ndarray, "n 4"]
) -> Float[np.ndarray, "n 4"]:
    """Hamilton product, scalar last."""
    av, aw, bv, bw = a[:, :3], a[:, 3:], b[:, :3], b[:, 3:]
    vector = aw * bv + bw * av + np.cross(av, bv)
    return np.concatenate([vector, aw * bw - (av * bv).sum(1, keepdims=True)], axis=1)
