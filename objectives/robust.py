"""Kernels: how much a residual costs.

A kernel rho maps residuals to energies, element by element, and an energy is the sum of rho over
its residuals. Every robust kernel here behaves as r^2 near zero (no hidden 1/2), so a weight means
the same whichever is used; `scale` is the residual, in its own unit, beyond which it is doubted.

`robust_weight` gives the factors that make weighted least squares follow a kernel
(iteratively reweighted least squares): the gradient of sum rho(r) is that of sum w r^2 with w
held constant.

Reference: Barron, "A general and adaptive robust loss function", CVPR 2019.
"""

from typing import Literal, get_args

import jax.numpy as jnp
from jaxtyping import Array, Float

Kernel = Literal["squared", "absolute", "huber", "pseudo_huber", "geman_mcclure"]
KERNELS: tuple[Kernel, ...] = get_args(Kernel)

Scale = float | Float[Array, ""]

_SMALLEST_RESIDUAL = 1e-6
"""Bounds the weight of the absolute kernel, which grows without limit towards r = 0."""


def squared(residual: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """r^2, least squares."""
    return residual * residual


def absolute(residual: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """abs(r), L1, with no scale; its gradient is 0 at r = 0, where that of `jnp.abs` is 1."""
    return residual * jnp.sign(residual)


def huber(residual: Float[Array, "*shape"], scale: Scale) -> Float[Array, "*shape"]:
    """r^2 up to the scale, the straight line 2 scale abs(r) - scale^2 beyond."""
    size = jnp.abs(residual)
    inner = jnp.minimum(size, scale)
    return inner * (2.0 * size - inner)


def pseudo_huber(residual: Float[Array, "*shape"], scale: Scale) -> Float[Array, "*shape"]:
    """2 scale^2 (sqrt(1 + (r / scale)^2) - 1), a smooth Huber kernel.

    Written without the difference, which would cancel in float32 where r is small.
    """
    root = jnp.sqrt(1.0 + (residual / scale) ** 2)
    return 2.0 * residual * residual / (root + 1.0)


def geman_mcclure(residual: Float[Array, "*shape"], scale: Scale) -> Float[Array, "*shape"]:
    """r^2 scale^2 / (r^2 + scale^2): never more than scale^2, so outliers stop pulling."""
    ratio_squared = (residual / scale) ** 2
    weight = 1.0 / (1.0 + ratio_squared)
    # One function in two forms: the first loses its gradient's digits far out, the second its
    # value's digits near zero.
    near, far = residual * residual * weight, scale**2 * (1.0 - weight)
    return jnp.where(ratio_squared < 1.0, near, far)


def robust_energy(
    residual: Float[Array, "*shape"], kernel: Kernel, scale: Scale = 1.0
) -> Float[Array, "*shape"]:
    """rho(r) of the named kernel; `squared` and `absolute` ignore the scale."""
    match _known(kernel):
        case "squared":
            return squared(residual)
        case "absolute":
            return absolute(residual)
        case "huber":
            return huber(residual, scale)
        case "pseudo_huber":
            return pseudo_huber(residual, scale)
        case _:
            return geman_mcclure(residual, scale)


def robust_weight(
    residual: Float[Array, "*shape"], kernel: Kernel, scale: Scale = 1.0
) -> Float[Array, "*shape"]:
    """Weight w = rho'(r) / (2 r) of the named kernel, finite at r = 0."""
    size = jnp.abs(residual)
    match _known(kernel):
        case "squared":
            return jnp.ones_like(residual)
        case "absolute":
            return 0.5 / jnp.maximum(size, _SMALLEST_RESIDUAL)
        case "huber":
            return scale / jnp.maximum(size, scale)
        case "pseudo_huber":
            return 1.0 / jnp.sqrt(1.0 + (residual / scale) ** 2)
        case _:
            return 1.0 / (1.0 + (residual / scale) ** 2) ** 2


def _known(kernel: str) -> str:
    if kernel not in KERNELS:
        raise ValueError(f"unknown kernel {kernel!r}; known: {', '.join(KERNELS)}")
    return kernel
