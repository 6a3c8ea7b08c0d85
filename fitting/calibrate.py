"""How large a file's errors are: a strategy's scales, estimated from the file itself.

The scales of the likelihoods are what a user seldom knows and the data show: joints that scatter
about every pose that a hand can take are noisy joints. They are found by maximising the evidence.
With the parameters of every frame integrated out (a Gaussian about the fit: Laplace's
approximation), the scale s of a term has its greatest likelihood where

    s^2 = sum c |r|^2 / (n - tr(H^-1 H_g)),        n = sum c d

over all frames: r the residuals at the fit for the present scales, of d coordinates each, H the
Hessian of the whole objective and H_g what the term adds to it, so that the trace is the number of
parameters that the fit has spent on the term. Without it a fit that follows the noise would look
like one without noise. MacKay iterates the two sides; steps by the expected information of all
scales (Fisher scoring) have the same fixed point and need half the rounds where a scale is seen
through few parameters, and say how well it is known. The strategy's own scales count a little, as
a guess that may be wrong by a factor of two: they decide where the data say nothing.

Four things beside the book:

*   The 3D joints are compared up to a common translation that is fitted too, and its three numbers
    are spent as well. With the translation among the parameters, under a flat prior, log det H is
    the centred one's plus 3 log(sum of the weights / s^2), and that falls by 6 in log s, twice the
    number of parameters as for any other.
*   With a robust kernel both sums are weighted by the square of its weights w, and the residuals
    left over by w: with w alone an outlier at the knee of Geman and McClure's kernel would still
    count three times as much as a usual joint (10 % of joints mistaken for others: the scale a
    quarter too large instead of 6 %).
*   The weights shrink Gaussian noise too, by a factor that is divided out (`kernel_shrinkage`): a
    scale is the deviation of the noise without its outliers, whichever kernel is used.
*   A regressor's errors of the two hands' shapes are nearly the same, while the likelihood takes
    them for independent. How far the hands' shapes differ is `shape_difference`'s to say; what the
    regressor knows of the shape is judged by the mean of the two (an error that is mostly shared
    would be estimated at a fifth of its size by its ten small differences).

What stays as it is: how near is a contact (a tolerance), which shapes, poses and angles are usual
(a property of people, which the model's samples show and a noisy file would blur), how alike a
person's hands are. Collisions take no part, so that no surface is needed: how large the errors are
shows before the hands are told to stay apart.

Reference: MacKay, "Bayesian interpolation", Neural Computation 1992, section 4.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from fitting.batches import batches
from fitting.checks import check_file, frame_reasons
from fitting.levenberg_marquardt import LMNumbers, LMShape, lm_program, run_lm_stage
from fitting.posterior import CHUNK, Factor, free_columns
from fitting.predictions import TwoHandPredictions
from fitting.prepare import Prepared, prepare
from fitting.strategy import DEFAULT_KNEE, Acceptance, Stage, Strategy, StrategyError
from mano_jax.model import AnyArray, Hands
from objectives.collision_terms import COLLISION_TERMS
from objectives.gauss_newton import normal_equations
from objectives.likelihoods import (
    Items,
    Scales,
    item_length,
    joints_3d_items,
    keypoints_2d_items,
    parameter_items,
)
from objectives.problem import Observations, TwoHandParams, both_hands, posed_joints
from objectives.robust import Kernel, robust_weight
from objectives.total import Objective, Priors, make_priors

BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "joints_3d": (0.001, 0.1),
    "keypoints_2d": (0.004, 0.5),
    "relative_translation": (0.002, 0.2),
    "predicted_orientation": (0.02, 1.0),
    "predicted_pose": (0.03, 1.0),
    "predicted_shape": (0.05, 2.0),
    "predicted_translation": (0.002, 0.2),
    "predicted_depth": (0.002, 0.4),
    "predicted_camera": (0.003, 0.5),
}
"""The terms that are estimated and the range that each scale may take, in its own unit.

Below the least one nothing is gained. Joints that are exact would have none, and a robust kernel as
narrow as that takes the joints of a start that is centimetres off for outliers: on exact joints of
96 synthetic frames the hands end 0.93 mm off with 1 mm, 1.04 mm with half of it (I-MPJPE). At the
greatest one a term says nothing beside the others."""

FEWEST_FRAMES: Final = 32
"""With fewer valid frames nothing is estimated."""

POOR_INFORMATION: Final = 16.0
"""Of the log of a scale: with less, its standard error is more than a quarter."""

_PRIOR_INFORMATION: Final = 2.0
"""What the strategy's own scale counts: wrong by a factor of two is one standard deviation."""
_DAMPING: Final = 0.7
"""Of a round's step: where errors are not Gaussian the expected information is not the curvature,
and full steps of the finger pose's scale came back by two thirds of themselves."""
_LARGEST_FACTOR: Final = 2.0
"""By which a scale may change in a round: the fit has to follow."""
_FIRST_KNEES: Final = 4.0
"""How much wider the kernels are in the first round, whose fit starts far from the data: scales
that are too small would take half of it for outliers, and the fit would not come back."""
_CONVERGED: Final = 0.02
"""Change of the log of every scale in the last round."""
_FIRST_STEPS, _NEXT_STEPS = 10, 3
"""Steps of the solver in a round: from the start, and from the last round's fit."""

_UNITS: Final[dict[str, tuple[float, str]]] = {
    "joints_3d": (1e3, "mm"),
    "keypoints_2d": (112.0, "px of 224"),
    "relative_translation": (1e3, "mm"),
    "predicted_orientation": (180.0 / np.pi, "deg"),
    "predicted_pose": (180.0 / np.pi, "deg"),
    "predicted_shape": (1.0, "betas"),
    "predicted_translation": (1e3, "mm"),
    "predicted_depth": (1e3, "mm"),
    "predicted_camera": (1e2, "% of size and crop"),
}
"""What a scale is multiplied with to be read, and the unit then."""

_COORDINATES: Final = {"joints_3d": 3, "keypoints_2d": 2}
"""Coordinates of an item; the other terms' items are single numbers."""


@dataclass(frozen=True)
class Calibration:
    """Scales before and after, and what there is to say of them."""

    before: dict[str, float]
    """What the strategy had, of each term that acts and could be estimated."""
    scales: dict[str, float]
    """What they should be, of the same terms; one that could not be estimated is as before."""
    errors: dict[str, float]
    """Relative standard error of each scale that was estimated: what is due to the number of
    frames, were the errors as independent as the likelihoods take them for."""
    frames: int
    """Frames that were looked at."""
    rounds: int
    """Rounds of fit and estimate; 0 where nothing was estimated."""
    notes: tuple[str, ...]
    """What was not estimated or is not to be relied on, in sentences."""

    def applied_to(self, strategy: Strategy) -> Strategy:
        """The strategy with these scales."""
        return replace(strategy, scales=strategy.scales | self.scales)

    def table(self) -> str:
        """Scales before and after in units to be read, one a line, and the notes."""
        lines = [f"{'scale':<22}{'before':>8}{'now':>8}{'+-':>6}  unit"]
        for term, before in self.before.items():
            factor, unit = _UNITS[term]
            error = f"{100 * self.errors[term]:.0f} %" if term in self.errors else "kept"
            now = self.scales[term]
            lines.append(f"{term:<22}{factor * before:>8.3g}{factor * now:>8.3g}{error:>6}  {unit}")
        lines.append(f"estimated from {self.frames} frames in {self.rounds} rounds")
        return "\n".join([*lines, *self.notes])


def calibrate(
    hands: Hands,
    predictions: TwoHandPredictions,
    strategy: Strategy,
    *,
    sample: int = 256,
    seed: int = 0,
    rounds: int = 12,
    start: Mapping[str, float] | None = None,
) -> Calibration:
    """Estimate a strategy's scales from a file.

    Args:
        hands: the hand model.
        predictions: the file.
        strategy: its first stage that has likelihoods, a second-order one, is what is fitted.
        sample: how many frames to look at, at most.
        seed: of the choice of them.
        rounds: of fit and estimate, at most.
        start: scales to begin with instead of the strategy's, by term.

    Raises:
        StrategyError: the strategy has no scale that could be estimated.
        InputError: no frame of the file can be used.
    """
    check_file(predictions, hands)
    stage = _stage(strategy)
    terms = tuple(term for term in BOUNDS if term in stage.likelihoods)
    before = {term: strategy.scales[term] for term in terms}
    usable = np.flatnonzero(frame_reasons(predictions, hands) == "")
    if len(usable) < FEWEST_FRAMES:
        note = (
            f"{len(usable)} valid frames are too few to estimate scales from "
            f"(at least {FEWEST_FRAMES}): those of the strategy {strategy.name!r} stay."
        )
        return Calibration(before, dict(before), {}, len(usable), 0, (note,))
    chosen = np.random.default_rng(seed).permutation(usable)[:sample]
    prepared = prepare(hands, predictions.frames(np.sort(chosen)))

    current = replace(strategy, scales=strategy.scales | dict(start or {}))
    fit = _Fit(hands, prepared, current, stage, terms)
    params, number, estimate = prepared.params, 0, None
    for number in range(1, rounds + 1):
        fitted = _with_wide_kernels(current) if number == 1 else current
        params, sums = fit.round(params, fitted, _FIRST_STEPS if number == 1 else _NEXT_STEPS)
        estimate = _estimate(sums, fitted, before)
        current = replace(current, scales=current.scales | estimate.scales)
        if estimate.change < _CONVERGED:
            break
    assert estimate is not None, "there is at least one round"
    # What nothing was said of is the strategy's own, wherever the search began.
    scales = {term: estimate.scales.get(term, before[term]) for term in terms}
    notes = [*estimate.notes]
    if estimate.change >= _CONVERGED:
        notes.append(
            f"After {rounds} rounds a scale still changed by {100 * estimate.change:.0f} %."
        )
    return Calibration(before, scales, estimate.errors, len(chosen), number, tuple(notes))


def kernel_shrinkage(kernel: Kernel, knee: float, coordinates: int) -> float:
    """E[w^2 |z|^2] / (d E[w^2]) of a standard Gaussian z of d coordinates; 1 for least squares."""
    radius = np.linspace(1e-3, 12.0, 4000)
    weight = robust_weight(jnp.asarray(radius, jnp.float32), kernel, jnp.float32(knee))
    density = radius ** (coordinates - 1) * np.exp(-0.5 * radius**2) * np.asarray(weight) ** 2
    return float(np.sum(density * radius**2) / np.sum(density) / coordinates)


def _with_wide_kernels(strategy: Strategy) -> Strategy:
    knees = {
        term: _FIRST_KNEES * strategy.knees.get(term, DEFAULT_KNEE) for term in strategy.kernels
    }
    return replace(strategy, knees=strategy.knees | knees)


def _stage(strategy: Strategy) -> Stage:
    """What is fitted: a stage of the strategy's own, without its collisions."""
    for stage in strategy.stages:
        if stage.solver == "lm" and any(term in BOUNDS for term in stage.likelihoods):
            return replace(
                stage,
                weights={t: w for t, w in stage.weights.items() if t not in COLLISION_TERMS},
                likelihoods=tuple(t for t in stage.likelihoods if t not in COLLISION_TERMS),
                anneal={},
                acceptance=Acceptance(select_by=(), max_ratio={}),
            )
    raise StrategyError(
        f"strategy {strategy.name!r} has no scales that could be estimated: expected a stage of "
        "the solver 'lm' with likelihoods, as in the preset 'map'"
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class _Sums:
    """What frames say of the G terms."""

    squares: Float[AnyArray, "*batch G"]
    """Sum of c w^2 |r|^2, in the scale's unit squared."""
    judged: Float[AnyArray, "*batch G"]
    """Sum of c w^2 d."""
    numbers: Float[AnyArray, "*batch G"]
    """n = sum of c w d."""
    spent: Float[AnyArray, "*batch G"]
    """tr T_g, T_g = H^-1 H_g: how many parameters the term has determined."""
    shared: Float[AnyArray, "*batch G G"]
    """tr T_g T_h."""


@dataclass(frozen=True)
class _Estimate:
    scales: dict[str, float]
    errors: dict[str, float]
    change: float
    """Greatest change of the log of a scale."""
    notes: list[str]


@dataclass(frozen=True)
class _Fit:
    """The sample, and how it is fitted."""

    hands: Hands
    prepared: Prepared
    strategy: Strategy
    stage: Stage
    terms: tuple[str, ...]

    def round(
        self, params: TwoHandParams, strategy: Strategy, steps: int
    ) -> tuple[TwoHandParams, _Sums]:
        """Fit with a strategy's scales; the parameters and the sums over all frames."""
        priors = make_priors(self.hands, strategy.angle_frame)
        stage = replace(self.stage, iterations=steps)
        strategy = replace(strategy, stages=(stage,))
        free = free_columns(strategy, params.betas.shape[-1])
        numbers, shape = lm_program(strategy, stage)
        program = _round_program(shape, self.terms)
        parts = []
        # One size of chunk, and numbers that are traced: all rounds run one program.
        for frames, (at, observations) in batches((params, self.prepared.observations), CHUNK):
            found = program(self.hands, priors, at, observations, numbers, free)
            parts.append(jax.tree.map(lambda x, n=frames: np.asarray(x)[:n], found))
        params, sums = jax.tree.map(lambda *xs: np.concatenate(xs), *parts)
        # A frame whose Hessian could not be factorised must not take the others with it.
        sound = np.isfinite(sums.shared).all((-2, -1)) & np.isfinite(sums.squares).all(-1)
        return params, jax.tree.map(lambda x: np.sum(x[sound], axis=0, dtype=np.float64), sums)


def _estimate(sums: _Sums, strategy: Strategy, before: Mapping[str, float]) -> _Estimate:
    """One step of all scales, and what is to be said of it.

    Args:
        sums: over all frames.
        strategy: whose scales and knees were used.
        before: the guess that counts a little, of each term.
    """
    terms = tuple(before)
    scale = np.array([strategy.scales[term] for term in terms])
    least, greatest = np.array([BOUNDS[term] for term in terms]).T
    shrinkage = [_shrinkage(strategy, term) for term in terms]
    left = sums.numbers - sums.spent
    told = left > 0
    share = left / np.where(told, sums.numbers, 1.0)
    variance = sums.squares / np.where(told, sums.judged * share * shrinkage, 1.0)
    # The logarithm instead of the score itself: it is as far from either side.
    score = 2.0 * left * np.log(np.sqrt(np.maximum(variance, 1e-20)) / scale)
    score -= _PRIOR_INFORMATION * np.log(scale / np.array(list(before.values())))
    # Squared norms of the blocks of I - A^1/2 J H^-1 J^T A^1/2, the data's inverse covariance in
    # units of the scales: twice them is the expected information of the logs.
    own = np.diag(sums.numbers - 2.0 * sums.spent)
    information = 2.0 * (own + sums.shared) + _PRIOR_INFORMATION * np.eye(len(terms))
    # A scale at its bound is held there while the data push it on.
    outward = ((scale <= least) & (score < 0)) | ((scale >= greatest) & (score > 0))
    moves = np.flatnonzero(told & ~outward)

    step = np.zeros(len(terms))
    inverse = np.linalg.inv(information[np.ix_(moves, moves)])
    limit = np.log(_LARGEST_FACTOR)
    step[moves] = np.clip(_DAMPING * inverse @ score[moves], -limit, limit)
    new = np.where(told, np.clip(scale * np.exp(step), least, greatest), scale)
    notes = []
    for i, term in enumerate(terms):
        factor, unit = _UNITS[term]
        if not told[i]:
            notes.append(f"{term}: the file has nothing to hold it against; its scale stays.")
        elif outward[i]:
            end = "least" if score[i] < 0 else "greatest"
            notes.append(f"{term}: at the {end} value it may take, {factor * new[i]:.3g} {unit}.")
        elif information[i, i] < POOR_INFORMATION:
            notes.append(f"{term}: the sample says little of it; the strategy's scale counts too.")
    return _Estimate(
        scales={term: float(new[i]) for i, term in enumerate(terms) if told[i]},
        errors={terms[i]: float(error) for i, error in zip(moves, _roots(inverse), strict=True)},
        change=float(np.max(np.abs(np.log(new / scale)), initial=0.0)),
        notes=notes,
    )


def _roots(covariance: np.ndarray) -> np.ndarray:
    return np.sqrt(np.diag(covariance))


def _shrinkage(strategy: Strategy, term: str) -> float:
    objective = strategy.objective({}, [term])
    knee = float(objective.scales.knee[term])
    return kernel_shrinkage(dict(objective.kernels)[term], knee, _COORDINATES.get(term, 1))


@lru_cache(maxsize=8)
def _round_program(shape: LMShape, terms: tuple[str, ...]) -> Callable:
    def run(
        hands: Hands,
        priors: Priors,
        start: TwoHandParams,
        observations: Observations,
        numbers: LMNumbers,
        free: Bool[Array, "P"],
    ) -> tuple[TwoHandParams, _Sums]:
        params = run_lm_stage(hands, priors, start, observations, numbers, shape)
        objective = numbers.objective
        return params, _sums(hands, priors, params, observations, objective, free, terms)

    return jax.jit(run)


def _sums(
    hands: Hands,
    priors: Priors,
    params: TwoHandParams,
    observations: Observations,
    objective: Objective,
    free: Bool[Array, "P"],
    terms: tuple[str, ...],
) -> _Sums:
    """What each frame says of each term."""

    def hessian(some: Objective) -> Array:
        return normal_equations(hands, priors, params, observations, some, None).hessian

    by_term = {term: hessian(_only(objective, (term,))) for term in terms}
    others = tuple(term for term, _ in objective.kernels if term not in terms)
    rest = hessian(replace(_only(objective, others), weights=objective.weights))
    factor = Factor.of(sum(by_term.values(), start=rest), free)
    if "predicted_shape" in terms:
        by_term["predicted_shape"] = _of_mean_shape(by_term["predicted_shape"], observations)
    covariance = factor.covariance()
    full = jax.lax.Precision.HIGHEST
    spent_by = [jnp.matmul(covariance, by_term[term], precision=full) for term in terms]

    joints = posed_joints(hands, params, observations.left_anchor)
    squares, judged, numbers, centre = [], [], [], []
    for term in terms:
        items = _items(term, priors, params, joints, observations, objective)
        kernel, length = dict(objective.kernels)[term], item_length(items)
        scale, knee = objective.scales.scale[term], objective.scales.knee[term]
        weight = robust_weight(length / scale, kernel, knee)
        coordinates = items.residual.shape[-1]
        twice = items.confidence * weight**2
        total = jnp.sum(items.confidence * weight, axis=-1)
        squares.append(jnp.sum(twice * length**2, axis=-1))
        judged.append(jnp.sum(twice, axis=-1) * coordinates)
        numbers.append(total * coordinates)
        # Spent on the common translation, whichever it is.
        centre.append(jnp.where(total > 0, 3.0, 0.0) if term == "joints_3d" else 0.0 * total)
    centre = jnp.stack(centre, axis=-1)
    spent = jnp.stack([jnp.trace(T, axis1=-2, axis2=-1) for T in spent_by], axis=-1)
    shared = [[jnp.einsum("...ij,...ji->...", A, B) for B in spent_by] for A in spent_by]
    shared = jnp.stack([jnp.stack(row, axis=-1) for row in shared], axis=-2)
    return _Sums(
        squares=jnp.stack(squares, axis=-1),
        judged=jnp.stack(judged, axis=-1),
        numbers=jnp.stack(numbers, axis=-1),
        spent=spent + centre,
        shared=shared + jnp.eye(len(terms)) * centre[..., None],
    )


def _items(
    term: str,
    priors: Priors,
    params: TwoHandParams,
    joints: Float[Array, "*batch 2 21 3"],
    observations: Observations,
    objective: Objective,
) -> Items:
    """A term's residuals as they are judged here."""
    if term == "keypoints_2d":
        return keypoints_2d_items(params, joints, observations)
    if term == "joints_3d":
        numbers = objective.scales.scale[term], objective.scales.knee[term]
        kernel = dict(objective.kernels)[term]
        return joints_3d_items(joints, observations, kernel, *numbers)[0]
    items = parameter_items(term, params, observations, priors.joint_limits, priors.pose_prior)
    if term != "predicted_shape":
        return items
    # The mean of both hands as a unit vector's coordinate: of the same deviation as either one's.
    batch = items.confidence.shape[:-1]
    by_hand = items.residual.reshape(*batch, 2, -1)
    mean = jnp.sum(by_hand, axis=-2, keepdims=True) * 0.5**0.5
    both = both_hands(observations.hand_valid)[..., None]
    residual = jnp.concatenate([mean, jnp.zeros_like(mean)], axis=-2).reshape(items.residual.shape)
    first = jnp.arange(items.confidence.shape[-1]) < by_hand.shape[-1]
    return Items(
        jnp.where(both[..., None], residual, items.residual),
        jnp.where(both & ~first, 0.0, items.confidence),
    )


def _of_mean_shape(hessian: Float[Array, "*batch P P"], observations: Observations) -> Array:
    """What the mean of both hands' shapes has of `predicted_shape`'s Hessian."""
    size = (hessian.shape[-1] - 9) // 2
    # Half of a column and half of the other hand's, times the same from the left.
    swap = np.arange(hessian.shape[-1])
    swap[: 2 * size] = (swap[: 2 * size] + size) % (2 * size)
    mean = 0.25 * (
        hessian + hessian[..., swap, :] + hessian[..., :, swap] + hessian[..., swap, :][..., swap]
    )
    both = both_hands(observations.hand_valid)[..., None, None]
    return jnp.where(both, mean, hessian)


def _only(objective: Objective, terms: tuple[str, ...]) -> Objective:
    """Some of the scaled terms, and no weighted one."""
    scales = objective.scales
    return Objective(
        weights={},
        scales=Scales(
            scale={term: scales.scale[term] for term in terms},
            knee={term: scales.knee[term] for term in terms},
        ),
        kernels=tuple((term, kernel) for term, kernel in objective.kernels if term in terms),
    )
