"""A differentiable MANO hand model in JAX: two hands, any batch shape, no chumpy."""

from mano_jax.errors import UserError
from mano_jax.export import export_hands
from mano_jax.loading import HandSource, describe_hands, load_hands, read_hand_models
from mano_jax.model import (
    HandModel,
    Hands,
    PosedHands,
    assemble,
    mirrored,
    pose_hands,
    pose_joints,
    rest_joints,
    two_hands,
)
from mano_jax.pickles import HandFileError
from mano_jax.procedural import embedded_hand_model, procedural_hands

__all__ = [
    "HandFileError",
    "HandModel",
    "HandSource",
    "Hands",
    "PosedHands",
    "UserError",
    "assemble",
    "describe_hands",
    "embedded_hand_model",
    "export_hands",
    "load_hands",
    "mirrored",
    "pose_hands",
    "pose_joints",
    "procedural_hands",
    "read_hand_models",
    "rest_joints",
    "two_hands",
]
