"""Where a fit starts when there is a mesh of the model's own topology: from its vertices.

    vertices --(Kabsch of each skinned part)--> rotations --(Gauss-Newton)--> all parameters

The first step is closed form: what a joint carries most turns with it. It leaves a few millimetres,
for neighbouring parts share their skin and the shape is still the mean one. The second step
minimises the squared distance of all vertices over orientation, finger pose, shape and place of
each hand for itself; two or three steps do.

Reference: Kabsch, "A solution for the best rotation to relate two sets of vectors", 1976.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fitting.definite import solve_definite
from fitting.initialise_skeleton import kabsch, to_axis_angle
from fitting.tiles import CompiledOnce, Devices, join
from mano_jax.derivatives import Articulation, articulate
from mano_jax.kinematics import PARENTS
from mano_jax.model import Hands, pose_hands
from mano_jax.rotations import axis_angle_to_matrix, compose_axis_angle

MINIMUM_VERTICES: Final = 64
"""A hand has 61 unknowns with its place; fewer vertices than that are held by priors only."""

_TILE = 16
"""Frames that a device runs together; a constant, so that a frame's bits depend on no batch."""

_ITERATIONS = 12
_LAST_STEP = 2e-4
"""A step that moves the vertices less (m, root mean square) is the last: what is left is of second
order in it (on exact meshes, steps of 5 and 0.1 mm leave 0.1 and 0.0005 mm)."""

_VERTEX_SCALE = 1e-3
_BETA_SCALE = 10.0
_ANGLE_SCALE = 3.0
"""Metres, betas, radians: priors so weak that they only say something where no vertex does."""

_LEAST_PART = 3.0
"""A part whose vertices weigh less than that in all has no rotation of its own."""


class VertexStart(NamedTuple):
    """A start made from vertices; absent hands hold zeros."""

    global_orient: Float[np.ndarray, "N 2 3"]
    """Wrist rotation, axis-angle."""
    hand_pose: Float[np.ndarray, "N 2 15 3"]
    """Finger joint rotations, axis-angle."""
    betas: Float[np.ndarray, "N 2 S"]
    """Shape coefficients."""
    relative_transl: Float[np.ndarray, "N 3"]
    """Left wrist minus right wrist of the fitted hands, metres; zero without both."""


def initialise_from_vertices(
    hands: Hands,
    vertices: Float[np.ndarray, "N 2 V 3"],
    seen: Bool[np.ndarray, "N 2 V"],
) -> VertexStart:
    """Orientation, pose, shape and relative translation of both hands from their meshes.

    A hand with fewer than `MINIMUM_VERTICES` comes out as zeros.

    Args:
        hands: the hand model.
        vertices: metres, camera axes, any origin common to both hands.
        seen: which vertices count; the others are not read.
    """
    there = seen.sum(-1) >= MINIMUM_VERTICES
    seen = seen & there[..., None]
    weight = seen.astype(np.float64)
    target = np.where(seen[..., None], vertices, 0.0).astype(np.float64)
    total = np.maximum(weight.sum(-1), 1.0)[..., None]
    # float32 has room for a hand, not for a hand that is metres away.
    centre = (target * weight[..., None]).sum(-2) / total
    target = np.where(seen[..., None], target - centre[..., None, :], 0.0)

    orient, pose, wrist = _from_parts(hands, target, weight)
    betas = np.zeros((*wrist.shape[:-1], hands.num_betas))
    start = tuple(np.asarray(x, np.float32) for x in (orient, pose, betas, wrist, target, weight))
    program = _program()
    tiles = Devices(shared=hands).map_tiles(
        lambda hands, tile: program(hands, *tile),
        start,
        emptied=_without_vertices_after,
        size=_TILE,
    )
    fitted = join([tile for _, tile in tiles])
    orient, pose, betas, wrist = (x.astype(np.float64) for x in fitted)
    wrist = wrist + centre
    both = np.all(there, axis=-1)
    return VertexStart(
        global_orient=np.where(there[..., None], orient, 0.0),
        hand_pose=np.where(there[..., None, None], pose, 0.0),
        betas=np.where(there[..., None], betas, 0.0),
        relative_transl=np.where(both[:, None], wrist[:, 1] - wrist[:, 0], 0.0),
    )


def _from_parts(
    hands: Hands, target: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orientation, finger pose and wrist of the mean shape whose parts are turned as seen."""
    template = np.asarray(hands.v_template, np.float64)
    # Squared: skin that two joints share says little about either.
    skinning = np.swapaxes(np.asarray(hands.lbs_weights, np.float64) ** 2, -1, -2)
    shares = skinning * weight[..., None, :]
    total = shares.sum(-1)
    safe = np.maximum(total, 1e-9)[..., None]
    source_mean, target_mean = (shares @ x / safe for x in (template, target))
    # sum w (s - mean s) (y - mean y)^T = sum w s y^T - (sum w) mean s mean y^T
    weighted = shares[..., None, :] * np.swapaxes(template, -1, -2)[:, None]
    products = weighted.reshape(*weighted.shape[:2], 48, -1) @ target
    covariance = products.reshape(*products.shape[:2], 16, 3, 3)
    covariance = covariance - (
        total[..., None, None] * source_mean[..., :, None] * target_mean[..., None, :]
    )
    R = kabsch(covariance)
    known = total >= _LEAST_PART
    # Without a part of its own, the hand as a whole: the mean hand is nearly as good.
    whole = kabsch(covariance.sum(-3))
    R[..., 0, :, :] = np.where(known[..., 0, None, None], R[..., 0, :, :], whole)
    pose_mean = np.asarray(axis_angle_to_matrix(jnp.asarray(hands.pose_mean)), np.float64)
    local = [R[..., 0, :, :]]
    for joint, parent in enumerate(PARENTS[1:], start=1):
        relaxed = R[..., parent, :, :] @ pose_mean[:, joint - 1]
        R[..., joint, :, :] = np.where(known[..., joint, None, None], R[..., joint, :, :], relaxed)
        local.append(np.swapaxes(R[..., parent, :, :], -1, -2) @ R[..., joint, :, :])
    axis_angle = to_axis_angle(np.stack(local, axis=-3))
    J = np.asarray(hands.J_template, np.float64)
    heavy = np.argmax(total, axis=-1)[..., None, None]
    pick = partial(np.take_along_axis, indices=heavy, axis=-2)
    from_mean = (J[:, :1] - pick(source_mean))[..., 0, :]
    R_heavy = np.take_along_axis(R, heavy[..., None], axis=-3)[..., 0, :, :]
    wrist = pick(target_mean)[..., 0, :] + (R_heavy @ from_mean[..., None])[..., 0]
    return axis_angle[..., 0, :], axis_angle[..., 1:, :], wrist


@lru_cache(maxsize=1)
def _program() -> Callable:
    return CompiledOnce(_gauss_newton)


def _without_vertices_after(tile: tuple, frames: int) -> tuple:
    """What fills a tile has no vertices: it is done at once."""
    *given, counts = tile
    return (*given, counts * (np.arange(len(counts)) < frames)[:, None, None])


_FULL = jax.lax.Precision.HIGHEST


def _gauss_newton(
    hands: Hands,
    orient: Float[Array, "B 2 3"],
    pose: Float[Array, "B 2 15 3"],
    betas: Float[Array, "B 2 S"],
    wrist: Float[Array, "B 2 3"],
    target: Float[Array, "B 2 V 3"],
    weight: Float[Array, "B 2 V"],
) -> tuple[Array, Array, Array, Array]:
    """Fit each hand of a tile to its vertices; orientation, finger pose, betas and wrist."""
    count = betas.shape[-1]
    precision = jnp.concatenate(
        [
            jnp.zeros(3),
            jnp.full(45, _ANGLE_SCALE**-2),
            jnp.full(count, _BETA_SCALE**-2),
            jnp.zeros(3),
        ]
    )
    prior_mean = jnp.concatenate(
        [jnp.zeros((2, 3)), hands.pose_mean.reshape(2, 45), jnp.zeros((2, count + 3))], axis=-1
    )

    def values(orient, pose, betas, wrist):
        zero = jnp.zeros_like(orient)
        return jnp.concatenate([zero, pose.reshape(*pose.shape[:2], 45), betas, wrist], axis=-1)

    def energy(step, state):
        orient, pose, betas, wrist = _moved(state, step)
        posed = pose_hands(hands, global_orient=orient, hand_pose=pose, betas=betas)
        points = posed.vertices - posed.joints[..., :1, :] + wrist[..., None, :]
        squared = jnp.sum((points - target) ** 2, axis=-1)
        prior = (values(orient, pose, betas, wrist) - prior_mean) ** 2 * precision
        fit = jnp.sum(weight * squared, axis=-1) / _VERTEX_SCALE**2
        return 0.5 * (fit + jnp.sum(prior, axis=-1))

    def evaluate(state):
        zero = jnp.zeros((*weight.shape[:2], 51 + count), weight.dtype)
        value, pull = jax.vjp(lambda step: energy(step, state), zero)
        return value, pull(jnp.ones_like(value))[0]

    def hessian(state):
        orient, pose, betas, _ = state
        articulation = articulate(hands, global_orient=orient, hand_pose=pose, betas=betas)
        share = jnp.sqrt(weight)[..., None, :] / _VERTEX_SCALE
        # Fused into the products, the columns would be computed twice.
        columns = jax.lax.optimization_barrier(
            [c * share for c in _transposed_jacobian(hands, articulation)]
        )
        parts = [jnp.einsum("bhpv,bhqv->bhpq", c, c, precision=_FULL) for c in columns]
        return parts[0] + parts[1] + parts[2] + jnp.diag(precision)

    def iterate(carry):
        step_index, state, value, gradient, damping, done = carry
        step = _solve(hessian(state), gradient, damping)
        trial = _moved(state, step)
        trial_value, trial_gradient = evaluate(trial)
        accepted = (trial_value <= value) & ~done

        def choose(new, old):
            return jnp.where(accepted.reshape(*accepted.shape, *[1] * (new.ndim - 2)), new, old)

        # What is left after a step is of second order in it.
        fall = -0.5 * jnp.sum(gradient * step, axis=-1)
        small = 2.0 * fall < jnp.sum(weight, axis=-1) * (_LAST_STEP / _VERTEX_SCALE) ** 2
        return (
            step_index + 1,
            jax.tree.map(choose, trial, state),
            choose(trial_value, value),
            choose(trial_gradient, gradient),
            jnp.where(accepted, damping / 5.0, damping * 10.0),
            done | small | (damping > 1e3),
        )

    def goes_on(carry):
        return (carry[0] < _ITERATIONS) & ~jnp.all(carry[-1])

    state = (orient, pose, betas, wrist)
    value, gradient = evaluate(state)
    damping = jnp.full(value.shape, 1e-4, value.dtype)
    absent = jnp.sum(weight, axis=-1) == 0
    carry = (jnp.int32(0), state, value, gradient, damping, absent)
    return jax.lax.while_loop(goes_on, iterate, carry)[1]


def _moved(state, step):
    """A hand's parameters after a step: the wrist turns in camera axes, the rest adds."""
    orient, pose, betas, wrist = state
    count = betas.shape[-1]
    return (
        compose_axis_angle(step[..., :3], orient),
        pose + step[..., 3:48].reshape(pose.shape),
        betas + step[..., 48 : 48 + count],
        wrist + step[..., 48 + count :],
    )


def _solve(hessian: Array, gradient: Array, damping: Array) -> Array:
    """A damped step, columns scaled to a unit diagonal first."""
    scale = jax.lax.rsqrt(jnp.maximum(jnp.diagonal(hessian, axis1=-2, axis2=-1), 1e-12))
    scaled = hessian * scale[..., :, None] * scale[..., None, :]
    identity = jnp.eye(hessian.shape[-1], dtype=hessian.dtype)
    regular = scaled + (1e-6 + damping[..., None, None]) * identity
    return solve_definite(regular, -(gradient * scale)) * scale


def _transposed_jacobian(
    hands: Hands, articulation: Articulation
) -> list[Float[Array, "*batch 2 P V"]]:
    """Derivatives of x, y and z of all vertices by a hand's parameters, its wrist's place last.

    Vertices are the last axis, so that every step is vectorised: 4 times as fast as rows.
    """
    R, t = articulation.R_camera_joint, articulation.offsets
    batch = R.shape[:-3]
    blendshapes = jnp.concatenate([hands.shapedirs, hands.posedirs], axis=-1)
    s = jnp.swapaxes(hands.v_template, -1, -2) + jnp.einsum(
        "hvcf,...hf->...hcv", blendshapes, articulation.coefficients, precision=_FULL
    )
    w = jnp.swapaxes(hands.lbs_weights, -1, -2)
    maps = jnp.concatenate([R, t[..., None], articulation.offsets_betas], axis=-1)
    blended = jnp.einsum("hjv,...hjrc->...hrcv", w, maps, precision=_FULL)
    A = [[blended[..., r, c, :] for c in range(3)] for r in range(3)]
    x = [_dot(A[r], [s[..., c, :] for c in range(3)]) + blended[..., r, 3, :] for r in range(3)]

    # What a finger joint moves: its own share of a vertex, and those of the later joints.
    arms = []
    share = _of_chain(w[:, 1:])
    for r in range(3):
        alone = _dot(
            [R[..., 1:, r, c, None] for c in range(3)], [s[..., None, c, :] for c in range(3)]
        )
        moved = _of_chain(w[:, 1:] * (alone + t[..., 1:, r, None]))
        arms.append((moved - share * articulation.joints[..., 1:, r, None])[..., None, :])
    turns = [articulation.turns[..., r, :, None] for r in range(3)]
    by_pose = _cross(turns, arms)
    # Correctives, each driven by nine numbers of one finger joint.
    posedirs = hands.posedirs.reshape(2, -1, 3, 15, 9)
    corrective = jnp.einsum(
        "hvckf,...hkfi->...hkicv", posedirs, articulation.feature_pose, precision=_FULL
    )
    shapedirs = jnp.transpose(hands.shapedirs, (0, 3, 2, 1))
    columns = []
    for r in range(3):
        bend = by_pose[r] + _dot(
            [A[r][c][..., None, None, :] for c in range(3)],
            [corrective[..., c, :] for c in range(3)],
        )
        grow = blended[..., r, 4:, :] + _dot(
            [A[r][c][..., None, :] for c in range(3)], [shapedirs[..., c, :] for c in range(3)]
        )
        o = jnp.zeros_like(x[0])
        # A turn about axis i moves coordinate r by (e_i cross x)_r = (x cross e_r)_i.
        turn = jnp.stack(_cross(x, [float(c == r) for c in range(3)]), axis=-2)
        place = jnp.stack([o + (1.0 if c == r else 0.0) for c in range(3)], axis=-2)
        columns.append(jnp.concatenate([turn, bend.reshape(*batch, 45, -1), grow, place], axis=-2))
    return columns


def _of_chain(values: Float[Array, "*batch 15 V"]) -> Float[Array, "*batch 15 V"]:
    """Each finger joint's value and those of the later joints of its chain."""
    chains = values.reshape(*values.shape[:-2], 5, 3, values.shape[-1])
    last = chains[..., 2, :]
    middle = last + chains[..., 1, :]
    return jnp.stack([middle + chains[..., 0, :], middle, last], axis=-2).reshape(values.shape)


def _dot(a: Sequence[Array], b: Sequence[Array]) -> Array:
    """Inner product of vectors given as three arrays of components, which broadcast."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Sequence[Any], b: Sequence[Any]) -> list[Array]:
    """Cross product of vectors given as three arrays of components, which broadcast."""
    return [
        a[1] * b[2] - a[2] * b[1],
        a[2] * b[0] - a[0] * b[2],
        a[0] * b[1] - a[1] * b[0],
    ]
