"""The embedded hand: a licence-free hand in MANO's format, so that everything runs offline.

It was modelled from bone lengths and radii alone (`experiments.embedded_hand`) and is read from
the package, never regenerated: its vertex numbering belongs to the stored file.
"""

from importlib.resources import as_file, files

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mano_jax.joint_orders import DEFAULT_FINGERTIPS
from mano_jax.model import HandModel, Hands, two_hands

_ARRAYS = files("mano_jax") / "data" / "embedded_hand.npz"


def embedded_hand_model() -> HandModel:
    """The embedded right hand, at its own average shape.

    The file keeps MANO's key names in single precision, the pose correctives in half precision.
    """
    with as_file(_ARRAYS) as path, np.load(path) as arrays:
        stored = {key: arrays[key] for key in arrays.files}
    real = {
        key: value.astype(np.float64)
        for key, value in stored.items()
        if np.issubdtype(value.dtype, np.floating)
    }
    coefficients, components = real["hands_coeffs"], real["hands_components"]
    return HandModel(
        side="right",
        v_template=real["v_template"],
        shapedirs=real["shapedirs"],
        posedirs=real["posedirs"],
        J_regressor=real["J_regressor"],
        lbs_weights=real["weights"],
        faces=stored["f"].astype(np.int64),
        pose_mean=real["hands_mean"],
        pose_components=components,
        pose_samples=coefficients @ components + real["hands_mean"],
    )


def procedural_hands(
    *, fingertips: str = DEFAULT_FINGERTIPS, dtype: DTypeLike = jnp.float32
) -> Hands:
    """The embedded right hand and its mirror image, ready to be posed.

    Args:
        fingertips: a set of `joint_orders.FINGERTIP_VERTICES`.
        dtype: float32, or float64 (needs JAX's x64 mode).
    """
    return two_hands(embedded_hand_model(), fingertips=fingertips, dtype=dtype)
