"""The objective as least squares: gradient and Gauss-Newton Hessian of every frame.

A frame's parameters are one vector of P = 2 D + 9 numbers, D = 3 + 45 + S: the right hand's (wrist
rotation, finger pose, betas), the left hand's, and what both share (tau, the anchor wrist's place,
the weak camera). All are additive but the wrist rotations, which are increments from the left,
R <- exp(delta) R.

No dense Jacobian over meshes is ever made. Joints enter by a 3x3 metric each, so 3D joints and the
keypoints of all views cost one product; a term of one hand touches that hand's columns only; of
the meshes the deepest contacts alone have rows, and a mesh target is summed up some vertices at a
time. Robust kernels, absolute values and hinges enter
reweighted: the gradient is exact, the Hessian positive semidefinite.
"""

from dataclasses import dataclass, fields
from functools import partial, reduce
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mano_jax.derivatives import Articulation, articulate, joints_with_jacobian, vertex_rows
from mano_jax.kinematics import matmul_3x3
from mano_jax.model import Hands, assemble
from mano_jax.rotations import axis_angle_to_matrix, matrix_to_axis_angle
from objectives import collision
from objectives.fingers import FINGER_CHAINS, chain_invariants
from objectives.joint_limits import joint_limit_excess
from objectives.keypoints import keypoints_2d_difference, origin_shares
from objectives.likelihoods import (
    CONTACT_MARGIN,
    Items,
    bone_scale_items,
    item_precision,
    joints_3d_items,
    keypoints_2d_items,
    parameter_items,
)
from objectives.masked_means import coordinate_weights, hand_weights
from objectives.problem import Observations, TwoHandParams, both_hands, posed_hands
from objectives.robust import robust_weight
from objectives.shape import bone_direction
from objectives.total import Objective, Priors

COMMON: Final = 9
"""Columns that belong to no hand: tau, the anchor wrist's place, the weak camera."""

CONTACT_ROWS: Final = 64
"""Contacts of each hand that get a row: the deepest ones. The others still count in the energy."""
ATTRACTED_ROWS: Final = 256
"""The same where `contact` acts, which pulls at all the skin within millimetres."""
_VERTICES_AT_A_TIME = 64

_SMALLEST = 1e-6
"""Bounds the reweighting of what costs its absolute value (m, rad or crop units)."""
_SMALLEST_TWIST = 1e-9
"""The same for F_f, whose volumes are cubic millimetres."""

_TAU, _ROOT, _CAMERA = slice(0, 3), slice(3, 6), slice(6, 9)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NormalEquations:
    """The second-order model E(d) ~ E + gradient . d + d . hessian d / 2 of every frame."""

    gradient: Float[Array, "*batch P"]
    """By the columns above."""
    hessian: Float[Array, "*batch P P"]
    """Positive semidefinite; rows of what nothing depends on are zero."""


def normal_equations(
    hands: Hands,
    priors: Priors,
    params: TwoHandParams,
    observations: Observations,
    objective: Objective,
    found: collision.Search | None,
) -> NormalEquations:
    """Linearise every acting term.

    Args:
        hands: the hand model.
        priors: `make_priors` of the same model.
        params: where.
        observations: what they are held against.
        objective: which terms act.
        found: a collision search at `params`, with the objective's band; None takes no contacts.
    """
    posture = articulate(
        hands,
        global_orient=params.global_orient,
        hand_pose=params.hand_pose,
        betas=params.betas,
    )
    local, jacobian = joints_with_jacobian(hands, posture)
    origin = jnp.zeros_like(local[..., 0, :])
    joints = assemble(local, origin, params.relative_transl, observations.left_anchor)
    parts = [
        _joints_parts(params, joints, jacobian, observations, objective),
        *_finger_parts(joints, jacobian, observations, objective),
        *_parameter_parts(priors, params, observations, objective, jacobian.shape[-1]),
    ]
    total = reduce(_Parts.__add__, parts)
    if "vertices" in objective.weights and observations.vertices is not None:
        total = total + _vertices_parts(hands, posture, params, observations, objective)
    if found is not None:
        total = jax.lax.cond(
            jnp.any(found.face >= 0),
            lambda: total + _contact_parts(hands, posture, params, observations, objective, found),
            lambda: total,
        )
    return _joined(total)


def column_fields(num_betas: int) -> tuple[str, ...]:
    """The field of `TwoHandParams` that each of the P columns belongs to."""
    hand = ("global_orient",) * 3 + ("hand_pose",) * 45 + ("betas",) * num_betas
    common = ("relative_transl",) * 3 + ("root_transl",) * 3 + ("weak_camera",) * 3
    return hand + hand + common


def retract(params: TwoHandParams, step: Float[Array, "*batch P"]) -> TwoHandParams:
    """Parameters after a step."""
    num_betas = params.betas.shape[-1]
    size = 48 + num_betas
    own = step[..., : 2 * size].reshape(*step.shape[:-1], 2, size)
    common = step[..., 2 * size :]
    turned = matmul_3x3(
        axis_angle_to_matrix(own[..., :3]), axis_angle_to_matrix(params.global_orient)
    )
    pose = own[..., 3:48].reshape(params.hand_pose.shape)
    return TwoHandParams(
        global_orient=matrix_to_axis_angle(turned),
        hand_pose=params.hand_pose + pose,
        betas=params.betas + own[..., 48:],
        relative_transl=params.relative_transl + common[..., _TAU],
        root_transl=params.root_transl + common[..., _ROOT],
        weak_camera=params.weak_camera + common[..., _CAMERA],
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Parts:
    """Gradient and Hessian by the hands' own columns and the common ones."""

    own: Float[Array, "*batch 2 D D"]
    own_common: Float[Array, "*batch 2 D 9"]
    cross: Float[Array, "*batch D D"]
    common: Float[Array, "*batch 9 9"]
    gradient_own: Float[Array, "*batch 2 D"]
    gradient_common: Float[Array, "*batch 9"]

    def __add__(self, other: "_Parts") -> "_Parts":
        return _Parts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(_Parts)))


def _joined(parts: _Parts) -> NormalEquations:
    right, left = parts.own[..., 0, :, :], parts.own[..., 1, :, :]
    right_common, left_common = parts.own_common[..., 0, :, :], parts.own_common[..., 1, :, :]
    rows = [
        [right, parts.cross, right_common],
        [_transposed(parts.cross), left, left_common],
        [_transposed(right_common), _transposed(left_common), parts.common],
    ]
    own = parts.gradient_own.reshape(*parts.gradient_own.shape[:-2], -1)
    return NormalEquations(
        gradient=jnp.concatenate([own, parts.gradient_common], axis=-1),
        hessian=_block(rows),
    )


def _joints_parts(
    params: TwoHandParams,
    joints: Float[Array, "*batch 2 21 3"],
    jacobian: Float[Array, "*batch 2 21 3 D"],
    observations: Observations,
    objective: Objective,
) -> _Parts:
    """3D joints and 2D keypoints, by a metric and a force on each joint.

    With J_j the Jacobian of joint j, M_j the sum of a P^T P over everything that sees it and f_j
    that of a P^T r, the Hessian is sum J^T M J and the gradient sum J^T f.
    """
    batch, size = joints.shape[:-3], jacobian.shape[-1]
    image = _image_metric(params, joints, observations, objective)
    spaces = _space_metrics(joints, observations, objective)
    metric, force = image.metric, image.force
    for space in spaces:
        metric = metric + space.precision[..., None, None] * jnp.eye(3, dtype=joints.dtype)
        force = force + space.force
    # A metric times a Jacobian: the sum over 3 written out, see `kinematics.matmul_3x3`.
    pulled = _metric_times(metric, jacobian)
    flat = jacobian.reshape(*batch, 2, 63, size)
    own = _product(flat, pulled.reshape(*batch, 2, 63, size))
    moved = _moved_by_tau(observations, joints.dtype)

    own_tau = moved[..., None, None] * _transposed(pulled.sum(axis=-3))
    own_root = _transposed(_metric_times(image.metric, jacobian).sum(axis=-3))
    own_camera = _product(flat, image.with_camera.reshape(*batch, 2, 63, 3))
    if observations.views is None:
        own_root = jnp.zeros_like(own_root)
    by_hand, image_by_hand = metric.sum(axis=-3), image.metric.sum(axis=-3)
    tau_tau = jnp.sum((moved**2)[..., None, None] * by_hand, axis=-3)
    tau_root = jnp.sum(moved[..., None, None] * image_by_hand, axis=-3)
    tau_camera = jnp.sum(moved[..., None, None] * image.with_camera.sum(axis=-3), axis=-3)
    root_root = image_by_hand.sum(axis=-3)
    force_by_hand = force.sum(axis=-2)
    gradient_root = image.force.sum(axis=(-3, -2))
    none = jnp.zeros_like(tau_root)
    if observations.views is None:
        tau_root, root_root, gradient_root = none, none, jnp.zeros_like(gradient_root)
    common = _block(
        [
            [tau_tau, tau_root, tau_camera],
            [_transposed(tau_root), root_root, none],
            [_transposed(tau_camera), none, image.camera],
        ]
    )
    parts = _Parts(
        own=own,
        own_common=jnp.concatenate([own_tau, own_root, own_camera], axis=-1),
        cross=jnp.zeros((*batch, size, size), joints.dtype),
        common=common,
        gradient_own=jnp.einsum("...rp,...r->...p", flat, force.reshape(*batch, 2, 63)),
        gradient_common=jnp.concatenate(
            [
                jnp.sum(moved[..., None] * force_by_hand, axis=-2),
                gradient_root,
                image.camera_force,
            ],
            axis=-1,
        ),
    )
    rows = flat.reshape(*batch, 2, 21, 3, size)

    def summed(weights: Float[Array, "*batch 2 21"]) -> Array:
        return jnp.einsum("...j,...jkp->...kp", weights, rows)

    centrings = [_centring(s, summed(s.precision), summed(s.shares), moved) for s in spaces]
    return reduce(_Parts.__add__, centrings, parts)


@dataclass(frozen=True)
class _SpaceMetric:
    """What 3D points say: sum of a |r - centre|^2, the centre a mean of the r's."""

    precision: Float[Array, "*batch 2 K"]
    shares: Float[Array, "*batch 2 K"]
    """What each point contributes to the centre."""
    force: Float[Array, "*batch 2 K 3"]


def _space_metrics(
    joints: Array, observations: Observations, objective: Objective
) -> list[_SpaceMetric]:
    metrics = []
    targets, confidence = observations.joints_3d, observations.joints_3d_confidence
    if targets is None or confidence is None:
        return metrics
    shape = confidence.shape
    if "joints_3d" in objective.weights:
        flat = confidence.reshape(*shape[:-2], 42)
        precision = 2.0 * objective.weights["joints_3d"] * coordinate_weights(flat, 3)
        shares = origin_shares(confidence, observations.left_anchor)
        difference = jnp.where(confidence[..., None] > 0, joints - targets, 0.0)
        centre = jnp.sum(shares[..., None] * difference, axis=(-3, -2), keepdims=True)
        metrics.append(_centred(difference - centre, precision.reshape(shape), shares))
    kernel = dict(objective.kernels).get("joints_3d")
    if kernel is not None:
        numbers = objective.scales.scale["joints_3d"], objective.scales.knee["joints_3d"]
        items, shares = joints_3d_items(joints, observations, kernel, *numbers)
        precision = item_precision(items, kernel, *numbers).reshape(shape)
        residual = items.residual.reshape(joints.shape)
        metrics.append(_centred(residual, precision, shares.reshape(shape)))
    return metrics


def _centred(residual: Array, precision: Array, shares: Array) -> _SpaceMetric:
    force = precision[..., None] * residual
    total = force.sum(axis=(-3, -2), keepdims=True)
    return _SpaceMetric(precision, shares, force - shares[..., None] * total)


def _centring(
    space: _SpaceMetric,
    summed: Float[Array, "*batch 2 3 D"],
    shared: Float[Array, "*batch 2 3 D"],
    moved: Float[Array, "*batch 2"],
) -> _Parts:
    """What the common centre takes off the Hessian.

    With A = sum a, S = sum a J (`summed`) and C = sum of shares J (`shared`) it is
    -C^T S - S^T C + A C^T C = ((A C - S)^T (A C - S) - S^T S) / A, of rank 6.
    """
    total = space.precision.sum(axis=(-2, -1))

    def shift(weights: Float[Array, "*batch 2 K"]) -> Array:
        by_tau = jnp.sum(moved * weights.sum(axis=-1), axis=-1)
        return by_tau[..., None, None] * jnp.eye(3, COMMON, dtype=summed.dtype)

    offset = total[..., None, None] * space.shares - space.precision
    off_own = total[..., None, None, None] * shared - summed
    inverse = jnp.where(total > 0, 1.0 / jnp.where(total > 0, total, 1.0), 0.0)[..., None]
    inverse = jnp.broadcast_to(inverse, (*total.shape, 3))
    return _frame_rows(off_own, shift(offset), inverse) + _frame_rows(
        summed, shift(space.precision), -inverse
    )


def _vertices_parts(
    hands: Hands,
    posture: Articulation,
    params: TwoHandParams,
    observations: Observations,
    objective: Objective,
) -> _Parts:
    """The mesh target, some vertices at a time: all rows at once would be a megabyte a frame."""
    targets, confidence = observations.vertices, observations.vertices_confidence
    assert targets is not None and confidence is not None, "the caller has looked"
    vertices = posed_hands(hands, params, observations.left_anchor).vertices
    batch, count, size = vertices.shape[:-3], vertices.shape[-2], posture.num_columns
    valid = (confidence > 0).astype(vertices.dtype)
    number = jnp.maximum(valid.sum(axis=(-2, -1), keepdims=True), 1.0)
    weights = coordinate_weights(confidence.reshape(*batch, -1), 3).reshape(confidence.shape)
    difference = jnp.where(valid[..., None] > 0, vertices - targets, 0.0)
    shares = valid / number
    centre = jnp.sum(shares[..., None] * difference, axis=(-3, -2), keepdims=True)
    residual = jnp.where(valid[..., None] > 0, difference - centre, 0.0)
    space = _centred(residual, 2.0 * objective.weights["vertices"] * weights, shares)

    chunks = -(-count // _VERTICES_AT_A_TIME)
    filled = jnp.arange(chunks * _VERTICES_AT_A_TIME).reshape(chunks, -1)
    directions = jnp.tile(jnp.eye(3, dtype=vertices.dtype), (_VERTICES_AT_A_TIME, 1))
    directions = jnp.broadcast_to(directions, (*batch, 2, *directions.shape))

    def add(sums: tuple[Array, ...], chosen: Array) -> tuple[tuple[Array, ...], None]:
        own, summed, shared, gradient = sums
        at = jnp.minimum(chosen, count - 1)
        there = (chosen < count).astype(vertices.dtype)
        points = jnp.broadcast_to(jnp.repeat(at, 3), (*batch, 2, 3 * len(at)))
        rows = vertex_rows(hands, posture, points, directions)
        by_point = rows.reshape(*batch, 2, len(at), 3, size)
        precision, share = (jnp.take(x, at, axis=-1) * there for x in (space.precision, shares))
        force = jnp.take(space.force, at, axis=-2) * there[:, None]
        return (
            own + _product(rows, jnp.repeat(precision, 3, axis=-1)[..., None] * rows),
            summed + jnp.einsum("...j,...jkp->...kp", precision, by_point),
            shared + jnp.einsum("...j,...jkp->...kp", share, by_point),
            gradient + jnp.einsum("...jkp,...jk->...p", by_point, force),
        ), None

    def none(*shape: int) -> Array:
        return jnp.zeros((*batch, *shape), vertices.dtype)

    start = none(2, size, size), none(2, 3, size), none(2, 3, size), none(2, size)
    (own, summed, shared, gradient), _ = jax.lax.scan(add, start, filled)
    moved = _moved_by_tau(observations, vertices.dtype)
    by_hand = space.precision.sum(axis=-1)
    tau = jnp.sum(moved**2 * by_hand, axis=-1)[..., None, None] * jnp.eye(COMMON)[:3, :3]
    parts = _Parts(
        own=own,
        own_common=_wide(moved[..., None, None] * _transposed(summed)),
        cross=none(size, size),
        common=jnp.pad(tau, [(0, 0)] * len(batch) + [(0, COMMON - 3)] * 2),
        gradient_own=gradient,
        gradient_common=_wide(jnp.sum(moved[..., None] * space.force.sum(axis=-2), axis=-2)),
    )
    return parts + _centring(space, summed, shared, moved)


def _wide(by_tau: Array) -> Array:
    """Columns of tau among all common ones."""
    return jnp.pad(by_tau, [(0, 0)] * (by_tau.ndim - 1) + [(0, COMMON - 3)])


@dataclass(frozen=True)
class _ImageMetric:
    """What the keypoints say of each joint and of the camera."""

    metric: Float[Array, "*batch 2 21 3 3"]
    force: Float[Array, "*batch 2 21 3"]
    with_camera: Float[Array, "*batch 2 21 3 3"]
    camera: Float[Array, "*batch 3 3"]
    camera_force: Float[Array, "*batch 3"]


def _image_metric(
    params: TwoHandParams, joints: Array, observations: Observations, objective: Objective
) -> _ImageMetric:
    batch, dtype = joints.shape[:-3], joints.dtype
    precision = _image_precision(params, joints, observations, objective)
    if precision is None:
        none = jnp.zeros((*batch, 2, 21, 3, 3), dtype)
        return _ImageMetric(none, none[..., 0], none, none[..., 0, 0, :, :], none[..., 0, 0, 0, :])

    def difference(camera: Array, joints: Array) -> Array:
        moved = {f.name: getattr(params, f.name) for f in fields(params)}
        guess = TwoHandParams(**(moved | {"weak_camera": camera}))
        found = keypoints_2d_difference(guess, joints, observations)
        assert found is not None, "there are keypoints: they have a precision"
        return found

    camera = params.weak_camera

    def along_point(k: int) -> tuple[Array, Array]:
        direction = jnp.broadcast_to(jnp.eye(3, dtype=dtype)[k], joints.shape)
        return jax.jvp(partial(difference, camera), (joints,), (direction,))

    def along_camera(k: int) -> Array:
        direction = jnp.broadcast_to(jnp.eye(3, dtype=dtype)[k], camera.shape)
        return jax.jvp(lambda c: difference(c, joints), (camera,), (direction,))[1]

    derivatives = [along_point(k) for k in range(3)]
    residual, by_point = derivatives[0][0], [d for _, d in derivatives]
    by_camera = [along_camera(k) for k in range(3)]
    # Views (axis -4) and the two image coordinates (axis -1) are summed.
    pulled = [precision * d for d in by_point]

    def table(first: list[Array], second: list[Array], axes: tuple[int, ...]) -> Array:
        rows = [jnp.stack([jnp.sum(a * b, axis=axes) for b in second], axis=-1) for a in first]
        return jnp.stack(rows, axis=-2)

    everything = (-4, -3, -2, -1)
    return _ImageMetric(
        metric=table(pulled, by_point, (-4, -1)),
        force=jnp.stack([jnp.sum(p * residual, axis=(-4, -1)) for p in pulled], axis=-1),
        with_camera=table(pulled, by_camera, (-4, -1)),
        camera=table([precision * d for d in by_camera], by_camera, everything),
        camera_force=jnp.stack(
            [jnp.sum(precision * d * residual, axis=everything) for d in by_camera], axis=-1
        ),
    )


def _image_precision(
    params: TwoHandParams, joints: Array, observations: Observations, objective: Objective
) -> Float[Array, "*batch C 2 21 2"] | None:
    """Of each coordinate of each keypoint; None where keypoints do not act."""
    residual = keypoints_2d_difference(params, joints, observations)
    confidence = observations.keypoints_2d_confidence
    if residual is None or confidence is None:
        return None
    precision = None
    if "keypoints_2d" in objective.weights:
        flat = confidence.reshape(*joints.shape[:-3], -1)
        weights = coordinate_weights(flat, 2).reshape(confidence.shape)[..., None]
        size = jnp.maximum(jnp.abs(residual), _SMALLEST)
        precision = objective.weights["keypoints_2d"] * weights / size
    kernel = dict(objective.kernels).get("keypoints_2d")
    if kernel is not None:
        numbers = objective.scales.scale["keypoints_2d"], objective.scales.knee["keypoints_2d"]
        items = keypoints_2d_items(params, joints, observations)
        scaled = item_precision(items, kernel, *numbers).reshape(confidence.shape)
        scaled = jnp.broadcast_to(scaled[..., None], residual.shape)
        precision = scaled if precision is None else precision + scaled
    return precision


def _finger_parts(
    joints: Array, jacobian: Array, observations: Observations, objective: Objective
) -> list[_Parts]:
    """Finger twist and the scale of a bone: rows of one hand's joints."""
    parts = []
    valid = observations.hand_valid
    if "finger_twist" in objective.weights:
        chains, by_chain = joints[..., FINGER_CHAINS, :], jacobian[..., FINGER_CHAINS, :, :]
        weight = objective.weights["finger_twist"] * valid[..., None].astype(joints.dtype)

        def rows(index: int) -> Array:
            """Derivative of an invariant by the twelve coordinates, times theirs."""
            by_joints = jax.grad(lambda c: jnp.sum(chain_invariants(c)[index]))(chains)
            return jnp.einsum("...fjk,...fjkp->...fp", by_joints, by_chain)

        volume, agreement = chain_invariants(chains)
        backwards = jnp.minimum(agreement, 0.0)
        for index, residual in enumerate((volume, backwards)):
            size = jnp.maximum(jnp.abs(residual), _SMALLEST_TWIST ** (1 + index / 3))
            precision = jnp.where(residual == 0, 0.0, weight / size)
            parts.append(_hand_rows(rows(index), precision, residual))
    if _acts(objective, "bone_scale"):
        items = bone_scale_items(joints, observations)
        rows_own = bone_direction(joints, jacobian)
        residual, precision = _by_hand(items, objective, "bone_scale", observations)
        parts.append(_hand_rows(rows_own, precision, residual))
    return parts


def _parameter_parts(
    priors: Priors,
    params: TwoHandParams,
    observations: Observations,
    objective: Objective,
    size: int,
) -> list[_Parts]:
    """The terms that look at the parameters alone."""
    batch, dtype = params.betas.shape[:-2], params.betas.dtype
    num_betas = params.betas.shape[-1]
    parts = []

    def items_of(term: str) -> Items:
        return parameter_items(term, params, observations, priors.joint_limits, priors.pose_prior)

    def placed(block: Array, first: int) -> Array:
        """Rows (*batch 2 R n) put at the columns from `first` on."""
        after = size - first - block.shape[-1]
        return jnp.pad(block, [(0, 0)] * (block.ndim - 1) + [(first, after)])

    def rows_of(term: str, block: Array, first: int) -> None:
        residual, precision = _by_hand(items_of(term), objective, term, observations)
        parts.append(_hand_rows(placed(block, first), precision, residual))

    for term, whitening in (
        ("pose_prior", priors.pose_prior.whitening),
        ("predicted_pose", priors.pose_prior.error_whitening),
    ):
        if _acts(objective, term):
            rows_of(term, jnp.broadcast_to(whitening, (*batch, *whitening.shape)), 3)
    for term in ("shape_prior", "predicted_shape"):
        if _acts(objective, term):
            identity = jnp.eye(num_betas, dtype=dtype)
            rows_of(term, jnp.broadcast_to(identity, (*batch, 2, *identity.shape)), 48)
    if _acts(objective, "joint_limits"):
        rows_of("joint_limits", _limit_rows(priors, params), 3)
    if _acts(objective, "predicted_orientation") and observations.predicted is not None:
        rows_of("predicted_orientation", _turn_rows(params, observations.predicted), 0)
    if _acts(objective, "shape_difference"):
        items = items_of("shape_difference")
        precision = _precision(items, objective, "shape_difference", observations)
        identity = jnp.broadcast_to(jnp.eye(num_betas, dtype=dtype), (*batch, num_betas, num_betas))
        rows = placed(jnp.stack([identity, -identity], axis=-3), 48)
        common = jnp.zeros((*batch, num_betas, COMMON), dtype)
        parts.append(_frame_rows(rows, common, precision, items.residual[..., 0]))
    for term, first, slopes in (
        ("relative_translation", 0, None),
        ("predicted_translation", 0, None),
        ("predicted_depth", 2, None),
        ("predicted_camera", 6, _camera_slopes(params, observations)),
    ):
        if not _acts(objective, term):
            continue
        items = items_of(term)
        count = items.confidence.shape[-1]
        slopes = jnp.ones((*batch, count), dtype) if slopes is None else slopes
        rows = slopes[..., None] * jnp.eye(count, COMMON, first, dtype)
        none = jnp.zeros((*batch, 2, count, size), dtype)
        precision = _precision(items, objective, term, observations)
        parts.append(_frame_rows(none, rows, precision, items.residual[..., 0]))
    return parts


def _limit_rows(priors: Priors, params: TwoHandParams) -> Float[Array, "*batch 2 45 45"]:
    """Derivative of each angle's excess by the finger pose; joints do not mix."""

    def along(k: int) -> Array:
        direction = jnp.zeros_like(params.hand_pose).at[..., k].set(1.0)
        return jax.jvp(
            lambda pose: joint_limit_excess(priors.joint_limits, pose),
            (params.hand_pose,),
            (direction,),
        )[1]

    blocks = jnp.stack([along(k) for k in range(3)], axis=-1)
    rows = blocks[..., :, :, None, :] * jnp.eye(15, dtype=blocks.dtype)[:, None, :, None]
    return rows.reshape(*blocks.shape[:-3], 45, 45)


def _turn_rows(params: TwoHandParams, predicted: TwoHandParams) -> Float[Array, "*batch 2 3 3"]:
    """Derivative of log(exp(delta) R R0^T) by delta at zero."""
    R = axis_angle_to_matrix(params.global_orient)
    R0 = axis_angle_to_matrix(predicted.global_orient)
    error = matmul_3x3(R, jnp.swapaxes(R0, -1, -2))

    def along(k: int) -> Array:
        direction = jnp.broadcast_to(jnp.eye(3, dtype=R.dtype)[k], params.global_orient.shape)
        zero = jnp.zeros_like(params.global_orient)
        return jax.jvp(
            lambda d: matrix_to_axis_angle(matmul_3x3(axis_angle_to_matrix(d), error)),
            (zero,),
            (direction,),
        )[1]

    return jnp.stack([along(k) for k in range(3)], axis=-1)


def _camera_slopes(params: TwoHandParams, observations: Observations) -> Array | None:
    """Derivatives of the camera's residuals, each by its own parameter."""
    if observations.predicted is None:
        return None
    guess = observations.predicted.weak_camera[..., :1]
    scale = params.weak_camera[..., :1]
    log_slope = 1.0 / jnp.where(scale > 0, scale, 1.0)
    return jnp.concatenate([log_slope, guess, guess], axis=-1)


def _contact_parts(
    hands: Hands,
    posture: Articulation,
    params: TwoHandParams,
    observations: Observations,
    objective: Objective,
    found: collision.Search,
) -> _Parts:
    """The deepest contacts: a vertex against the closest point of the other hand's face."""
    vertices = posed_hands(hands, params, observations.left_anchor).vertices
    wanted = ATTRACTED_ROWS if "contact" in objective.weights else CONTACT_ROWS
    rows = collision.contact_rows(hands, vertices, found, count=wanted, margin=objective.band)
    precision, force = _contact_precision(vertices, rows.depth, found, observations, objective)

    # All points of a hand whose derivatives are needed: its own contacts, and the corners of the
    # faces that the other hand's contacts meet.
    corners = rows.corners[..., ::-1, :, :]
    on_face = rows.barycentric[..., ::-1, :, :, None] * rows.normal[..., ::-1, :, None, :]
    batch, count = rows.depth.shape[:-2], rows.depth.shape[-1]
    points = jnp.concatenate([rows.vertex, corners.reshape(*batch, 2, 3 * count)], axis=-1)
    directions = jnp.concatenate([-rows.normal, on_face.reshape(*batch, 2, 3 * count, 3)], axis=-2)
    derivative = vertex_rows(hands, posture, points, directions)
    mine = derivative[..., :count, :]
    theirs = derivative[..., count:, :].reshape(*batch, 2, count, 3, -1).sum(axis=-2)
    # Contacts of the right hand, then of the left one; columns of the right hand, then the left.
    own = jnp.stack(
        [
            jnp.concatenate([mine[..., 0, :, :], theirs[..., 0, :, :]], axis=-2),
            jnp.concatenate([theirs[..., 1, :, :], mine[..., 1, :, :]], axis=-2),
        ],
        axis=-3,
    )
    moved = _moved_by_tau(observations, vertices.dtype)[..., None, None]
    by_tau = (moved[..., ::-1, :, :] - moved) * rows.normal
    by_tau = by_tau.reshape(*batch, 2 * count, 3)
    common = _wide(by_tau)
    precision = precision.reshape(*batch, 2 * count)
    residual = force.reshape(*batch, 2 * count) / jnp.where(precision > 0, precision, 1.0)
    return _frame_rows(own, common, precision, residual)


def _contact_precision(
    vertices: Array,
    depth: Float[Array, "*batch 2 K"],
    found: collision.Search,
    observations: Observations,
    objective: Objective,
) -> tuple[Array, Array]:
    """Precision of each contact, and precision times residual, summed over the acting terms.

    Residuals are depths: what pulls at skin outside has negative ones.
    """
    inside = jnp.maximum(depth, 0.0)
    safe = jnp.maximum(inside, _SMALLEST)
    both = both_hands(observations.hand_valid)[..., None, None].astype(depth.dtype)
    precision, force = jnp.zeros_like(depth), jnp.zeros_like(depth)

    def add(some: Array, residual: Array) -> None:
        nonlocal precision, force
        some = jnp.where(residual != 0, both * some, 0.0)
        precision, force = precision + some, force + some * residual

    weights = objective.weights
    if "collision" in weights:
        scale = collision.direction_scale(vertices, found)[..., None]
        add(weights["collision"] * 0.25 / (scale * safe), inside)
    if "collision_squared" in weights:
        add(2.0 * weights["collision_squared"] * jnp.ones_like(depth), inside)
    if "collision_robust" in weights:
        robust = robust_weight(inside / collision.ROBUST_SCALE, "geman_mcclure")
        add(2.0 * weights["collision_robust"] * robust / collision.ROBUST_SCALE**2, inside)
    if "contact" in weights:
        near = jnp.where(depth > -collision.CONTACT_BAND, jnp.minimum(depth, 0.0), 0.0)
        add(2.0 * weights["contact"] * jnp.ones_like(depth), near)
    kernel = dict(objective.kernels).get("collision")
    if kernel is not None:
        beyond = jnp.maximum(depth + CONTACT_MARGIN, 0.0)
        scale, knee = objective.scales.scale["collision"], objective.scales.knee["collision"]
        add(robust_weight(beyond / scale, kernel, knee) / scale**2, beyond)
    return precision, force


def _acts(objective: Objective, term: str) -> bool:
    return term in objective.weights or term in dict(objective.kernels)


def _precision(
    items: Items, objective: Objective, term: str, observations: Observations
) -> Float[Array, "*batch K"]:
    """Of each item of a parameter term, as a likelihood and as a weighted mean together."""
    precision = jnp.zeros_like(items.confidence)
    kernel = dict(objective.kernels).get(term)
    if kernel is not None:
        scale, knee = objective.scales.scale[term], objective.scales.knee[term]
        precision = precision + item_precision(items, kernel, scale, knee)
    if term in objective.weights:
        shares = _mean_shares(items, term, observations)
        if term == "joint_limits":
            size = jnp.maximum(jnp.abs(items.residual[..., 0]), _SMALLEST)
            shares = 0.5 * shares / size
        precision = precision + 2.0 * objective.weights[term] * shares
    return precision


def _mean_shares(items: Items, term: str, observations: Observations) -> Float[Array, "*batch K"]:
    """What each coordinate counts in the mean-reduced energy of the same name."""
    count = items.confidence.shape[-1]
    if term in ("relative_translation", "shape_difference"):
        return items.confidence / count
    # F_ang sums a bone's three angles; the others are means over all coordinates.
    by_hand = 15 if term == "joint_limits" else count // 2
    weights = hand_weights(observations.hand_valid, items.confidence.dtype) / by_hand
    return jnp.repeat(weights, count // 2, axis=-1) * items.confidence


def _by_hand(
    items: Items, objective: Objective, term: str, observations: Observations
) -> tuple[Float[Array, "*batch 2 R"], Float[Array, "*batch 2 R"]]:
    """Residuals and precisions of a term whose items are the right hand's, then the left's."""
    precision = _precision(items, objective, term, observations)
    shape = (*precision.shape[:-1], 2, -1)
    return items.residual[..., 0].reshape(shape), precision.reshape(shape)


def _hand_rows(
    rows: Float[Array, "*batch 2 R D"],
    precision: Float[Array, "*batch 2 R"],
    residual: Float[Array, "*batch 2 R"],
) -> _Parts:
    """Terms that touch one hand's columns each."""
    batch, size = rows.shape[:-3], rows.shape[-1]
    weighted = precision[..., None] * rows
    dtype = rows.dtype
    return _Parts(
        own=_product(rows, weighted),
        own_common=jnp.zeros((*batch, 2, size, COMMON), dtype),
        cross=jnp.zeros((*batch, size, size), dtype),
        common=jnp.zeros((*batch, COMMON, COMMON), dtype),
        gradient_own=jnp.einsum("...rp,...r->...p", weighted, residual),
        gradient_common=jnp.zeros((*batch, COMMON), dtype),
    )


def _frame_rows(
    own: Float[Array, "*batch 2 R D"],
    common: Float[Array, "*batch R 9"],
    precision: Float[Array, "*batch R"],
    residual: Float[Array, "*batch R"] | None = None,
) -> _Parts:
    """Terms that touch both hands' columns; without residuals a term adds no gradient."""
    common = jnp.broadcast_to(common, (*own.shape[:-3], *common.shape[-2:]))
    weighted = precision[..., None, :, None] * own
    residual = jnp.zeros_like(precision) if residual is None else residual
    force = precision * residual
    return _Parts(
        own=_product(own, weighted),
        own_common=_product(weighted, common[..., None, :, :]),
        cross=_product(own[..., 0, :, :], weighted[..., 1, :, :]),
        common=_product(common, precision[..., None] * common),
        gradient_own=jnp.einsum("...hrp,...r->...hp", own, force),
        gradient_common=jnp.einsum("...rp,...r->...p", common, force),
    )


def _moved_by_tau(observations: Observations, dtype: jnp.dtype) -> Float[Array, "*batch 2"]:
    """How far each hand moves with tau in the anchor frame; not at all without both hands."""
    both = both_hands(observations.hand_valid).astype(dtype)
    left = observations.left_anchor.astype(dtype)
    return jnp.stack([-left * both, (1.0 - left) * both], axis=-1)


def _metric_times(metric: Array, jacobian: Array) -> Array:
    """(*batch 2 21 3 3) times (*batch 2 21 3 D)."""
    return (
        metric[..., :, 0, None] * jacobian[..., None, 0, :]
        + metric[..., :, 1, None] * jacobian[..., None, 1, :]
        + metric[..., :, 2, None] * jacobian[..., None, 2, :]
    )


def _product(first: Float[Array, "*batch R a"], second: Float[Array, "*batch2 R b"]) -> Array:
    """first^T second."""
    return jnp.einsum("...ra,...rb->...ab", first, second, precision=jax.lax.Precision.HIGHEST)


def _block(rows: list[list[Array]]) -> Array:
    return jnp.concatenate([jnp.concatenate(row, axis=-1) for row in rows], axis=-2)


def _transposed(matrix: Array) -> Array:
    return jnp.swapaxes(matrix, -1, -2)
