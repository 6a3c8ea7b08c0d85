"""The exact collision engine against libigl, and against its own degenerate cases."""

import dataclasses
import math

import igl
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from fitting.adam import run_stage, stage_program
from fitting.parameters import PARAMETER_GROUPS
from fitting.strategy import Acceptance, Stage, Strategy
from mano_jax.loading import load_hands
from mano_jax.model import Hands, assemble, pose_hands
from mano_jax.topology import cap_faces
from objectives.collision import (
    Blocking,
    CollisionEngine,
    Search,
    box_scale,
    collision_energy,
    contact_energy,
    contact_rows,
    depths,
    exact_depths,
    exact_distances,
    penetration_depth,
    robust_depth_energy,
    search,
    search_culled,
    search_exact,
    signed_depth,
    squared_depth_energy,
    surface_distance,
)
from objectives.collision.geometry import (
    barycentric_of_closest,
    winding_number,
)
from objectives.collision.tiles import closest_faces
from objectives.collision.voxel import CELLS, box_centre, depth_grid, sample_grid
from objectives.collision_terms import COLLISION_TERMS, collision_band, search_collisions
from objectives.problem import Observations, TwoHandParams, posed_hands
from objectives.total import make_priors, term_energies
from tests.objective_cases import mirrored_params


def winding_by_igl(vertices, faces, queries) -> np.ndarray:
    """libigl's types promise less than an array."""
    return np.asarray(igl.winding_number(vertices, faces, queries))


def closest_by_igl(queries, vertices, faces) -> tuple[np.ndarray, ...]:
    """Squared distance, face and point."""
    return tuple(np.asarray(x) for x in igl.point_mesh_squared_distance(queries, vertices, faces))


@pytest.fixture(scope="module")
def hands() -> Hands:
    """The hand model that MANOFIT_HANDS names; the embedded one where it names none."""
    return load_hands()


def some_poses(hands: Hands, rng: np.random.Generator, count: int) -> jnp.ndarray:
    """Finger poses of both hands, (count, 2, 15, 3): the model's own samples where it has them."""
    if hands.pose_samples is None:
        drawn = np.asarray(hands.pose_mean) + rng.normal(0, 0.3, (count, 2, 15, 3))
        return jnp.asarray(drawn, jnp.float32)
    pick = rng.integers(0, len(hands.pose_samples[0]), (2, count))
    return jnp.stack([hands.pose_samples[h][pick[h]] for h in range(2)], axis=1)


@pytest.fixture(scope="module")
def interlocked(hands):
    """Vertices of eight frames of two hands that run into each other, (8, 2, V, 3)."""
    rng = np.random.default_rng(3)
    poses = some_poses(hands, rng, 8)
    posed = pose_hands(
        hands,
        global_orient=jnp.asarray(rng.normal(size=(8, 2, 3)), jnp.float32),
        hand_pose=poses,
        betas=jnp.asarray(rng.normal(0, 0.5, (8, 2, 10)), jnp.float32),
    )
    tau = jnp.asarray(rng.normal(0, 0.02, (8, 3)), jnp.float32)
    wrists = posed.joints[..., 0, :]
    return jax.block_until_ready(assemble(posed.vertices, wrists, tau, jnp.zeros(8, bool)))


@pytest.fixture(scope="module")
def oracle(hands, interlocked):
    """Winding number and distance by libigl in float64, each (8, 2, V)."""
    winding, distance = np.zeros(interlocked.shape[:-1]), np.zeros(interlocked.shape[:-1])
    for frame, hand in np.ndindex(interlocked.shape[:2]):
        query = np.asarray(interlocked[frame, hand], np.float64)
        target = np.asarray(interlocked[frame, 1 - hand], np.float64)
        faces = np.asarray(hands.faces[1 - hand], np.int64)
        winding[frame, hand] = winding_by_igl(target, faces, query)
        distance[frame, hand] = np.sqrt(closest_by_igl(query, target, faces)[0])
    return winding, distance


def test_sign_and_distance_equal_libigl(hands, interlocked, oracle):
    winding, distance = oracle
    active = jnp.ones(8, bool)
    found = search_exact(hands, interlocked, active)
    inside = winding > 0.5
    assert inside.sum() > 300
    # A sign may differ only where float32 cannot tell: within a micrometre of the surface.
    differs = np.asarray(found.inside) != inside
    assert np.all(distance[differs] < 1e-6) and differs.sum() <= 2
    depth = np.asarray(exact_depths(hands, interlocked, active))
    np.testing.assert_allclose(depth, np.where(inside, distance, 0), atol=1e-6)
    np.testing.assert_allclose(exact_distances(hands, interlocked, active), distance, atol=1e-6)


def test_winding_number_is_the_open_meshs(hands, interlocked, oracle):
    """Not the sign only: the number itself, beside and beyond the wrist opening too."""
    target, faces = interlocked[0, 1], hands.faces[1]
    loop = np.unique(np.asarray(hands.cap_faces[1]))
    rim = np.asarray(target)[loop]
    outwards = rim.mean(0) - np.asarray(target).mean(0)
    outwards /= np.linalg.norm(outwards)
    along = np.linspace(-0.04, 0.04, 161)[:, None, None] * outwards
    queries = (rim + 0.6 * (rim.mean(0) - rim) + along).reshape(-1, 3).astype(np.float32)
    expected = winding_by_igl(
        np.asarray(target, np.float64), np.asarray(faces, np.int64), queries.astype(np.float64)
    )
    got = winding_number(jnp.asarray(queries), target[faces], target[hands.cap_faces[1]])
    np.testing.assert_allclose(got, expected, atol=5e-5)
    assert expected.min() < 0.1 and expected.max() > 0.9


def test_rays_through_edges_and_vertices_count_once(hands):
    """Queries exactly below the vertices and edge midpoints of a mesh on a coarse lattice."""
    # Coordinates are small multiples of a power of two, so float32 arithmetic is exact.
    vertices = np.round(np.asarray(hands.v_template[0], np.float64) * 4096) / 4096
    faces = np.asarray(hands.faces[0], np.int64)
    edges = (vertices[faces] + vertices[np.roll(faces, 1, 1)]).reshape(-1, 3) / 2
    above = np.concatenate([vertices, edges[::3]])
    heights = [-0.25, -1 / 128, -1 / 1024, 0.25]
    queries = np.concatenate([above + [0, 0, dz] for dz in heights])
    expected = winding_by_igl(vertices, faces, queries)
    target = jnp.asarray(vertices, jnp.float32)
    got = winding_number(jnp.asarray(queries, jnp.float32), target[faces], target[cap_faces(faces)])
    off_surface = closest_by_igl(queries, vertices, faces)[0] > 1e-10
    np.testing.assert_allclose(np.asarray(got)[off_surface], expected[off_surface], atol=1e-4)
    assert (expected[off_surface] > 0.5).sum() > 100


def test_boxes_apart_are_skipped_and_right(hands, interlocked):
    apart = interlocked.at[:, 1].add(jnp.float32(1.0))
    found = search_culled(hands, apart, jnp.ones(8, bool))
    assert not found.inside.any() and (found.face == -1).all()
    assert (search_culled(hands, interlocked, jnp.zeros(8, bool)).face == -1).all()


def test_closest_face_is_the_first_of_the_closest():
    triangle = jnp.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], jnp.float32)
    triangles = jnp.stack([triangle + 5, triangle, triangle, triangle - 5])[None]
    point, every = jnp.zeros((1, 1, 3), jnp.float32), jnp.ones((1, 4), bool)
    for faces in (1, 2, 4):
        face = closest_faces(point, every[:, :1], triangles, every, Blocking(1, 4, faces))
        assert face[0, 0] == 1


def test_closest_point_in_every_region_of_a_triangle():
    triangle = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    points = np.random.default_rng(0).uniform(-1.5, 2.5, (400, 3)).astype(np.float32)
    barycentric = barycentric_of_closest(
        jnp.asarray(points), jnp.broadcast_to(triangle, (400, 3, 3))
    )
    squared, _, closest = closest_by_igl(
        points.astype(float), triangle.astype(float), np.array([[0, 1, 2]], np.int64)
    )
    found = np.asarray(barycentric) @ triangle
    distance = np.linalg.norm(points - found, axis=-1)
    np.testing.assert_allclose(distance, np.sqrt(squared), atol=1e-6)
    # Two edges can be equally close to float32, so the point is less certain than its distance.
    np.testing.assert_allclose(found, closest, atol=2e-3)
    degenerate = jnp.zeros((1, 3, 3), jnp.float32)
    assert jnp.isfinite(barycentric_of_closest(jnp.ones((1, 3), jnp.float32), degenerate)).all()


def test_kept_search_follows_vertices_across_the_surface(hands, interlocked):
    """Old faces, moved hands: depths stay right for small moves, and exits are noticed."""
    active = jnp.ones(8, bool)
    found = search_exact(hands, interlocked, active, band=math.inf)
    moved = interlocked.at[:, 1].add(jnp.array([0.0007, 0.0, 0.0], jnp.float32))
    kept = np.asarray(penetration_depth(hands, moved, found))
    fresh = np.asarray(exact_depths(hands, moved, active))
    both = (kept > 0) & (fresh > 0)
    assert np.abs(kept - fresh)[both].max() < 2e-3 and np.median(np.abs(kept - fresh)[both]) < 1e-6
    left, entered = np.asarray(found.inside) & (fresh == 0), ~np.asarray(found.inside) & (fresh > 0)
    assert left.sum() > 10 and (kept[left] == 0).mean() > 0.7
    assert entered.sum() > 10 and (kept[entered] > 0).mean() > 0.7


def test_kept_search_says_nothing_where_it_found_nothing(hands, interlocked):
    apart = interlocked.at[:, 1].add(jnp.float32(1.0))
    found = search_culled(hands, apart, jnp.ones(8, bool))
    assert (penetration_depth(hands, interlocked, found) == 0).all()


def test_energy_is_ihmrs_normalisation():
    depth = jnp.zeros((2, 2, 5)).at[0, 0, :2].set(0.01).at[0, 1, 3].set(0.004)
    scale = jnp.array([[0.1, 0.2], [0.1, 0.2]])
    energy = collision_energy(depth, scale, jnp.array([True, True]))
    np.testing.assert_allclose(energy, [0.25 * (0.02 / 0.1 + 0.004 / 0.2), 0], rtol=1e-6)
    assert collision_energy(depth, 0 * scale, jnp.array([False, False])).tolist() == [0, 0]
    box = jnp.array([[0.0, 0, 0], [0.1, 0.3, 0.2]])
    np.testing.assert_allclose(box_scale(box), 0.18, rtol=1e-6)


def test_gradient_is_exact_with_the_face_frozen(hands, interlocked):
    """Against central differences in float64, for both meshes."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, hands)
        vertices = interlocked[:1].astype(jnp.float64)
        found = search_culled(wide, vertices, jnp.ones(1, bool))

        def total(v):
            return jnp.sum(penetration_depth(wide, v, found) ** 2)

        gradient = jax.grad(total)(vertices)
        rng = np.random.default_rng(1)
        step = 1e-7
        for hand in range(2):
            direction = jnp.zeros_like(vertices).at[:, hand].set(rng.normal(size=(1, 778, 3)))
            numeric = (total(vertices + step * direction) - total(vertices - step * direction)) / (
                2 * step
            )
            analytic = jnp.sum(gradient * direction)
            assert abs(analytic) > 1e-4
            np.testing.assert_allclose(analytic, numeric, rtol=1e-5)


def test_gradient_is_finite_where_vertices_coincide(hands, interlocked):
    same = interlocked.at[:, 1].set(interlocked[:, 0])
    found = search_culled(hands, same, jnp.ones(8, bool))
    gradient = jax.grad(lambda v: penetration_depth(hands, v, found).sum())(same)
    assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("engine", ["exact", "culled"])
def test_memory_is_bounded(hands, interlocked, engine):
    """Temporaries of energy and gradient: at most linear in the batch, 3 MB a frame for culled."""

    def energy(v):
        active = jnp.ones(len(v), bool)
        found = jax.lax.stop_gradient(
            search(hands, jax.lax.stop_gradient(v), active, engine=engine)
        )
        depth = depths(hands, v, found)
        return jnp.sum(collision_energy(depth, box_scale(v)[..., ::-1], active))

    def temporary_bytes(frames):
        many = jnp.tile(interlocked, (frames // 8, 1, 1, 1))
        analysis = jax.jit(jax.value_and_grad(energy)).lower(many).compile().memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    small, large = temporary_bytes(16), temporary_bytes(64)
    assert large <= 4 * small
    assert (large - small) / 48 < 1e6
    if engine == "culled":
        assert large / 64 < 3e6


@pytest.fixture(scope="module")
def interlocked_params(hands):
    """Parameters of four frames of two hands that run into each other."""
    rng = np.random.default_rng(5)
    poses = some_poses(hands, rng, 4)
    return TwoHandParams(
        global_orient=jnp.asarray(rng.normal(size=(4, 2, 3)), jnp.float32),
        hand_pose=poses,
        betas=jnp.asarray(rng.normal(0, 0.5, (4, 2, 10)), jnp.float32),
        relative_transl=jnp.asarray(rng.normal(0, 0.02, (4, 3)), jnp.float32),
        root_transl=jnp.zeros((4, 3), jnp.float32),
        weak_camera=jnp.zeros((4, 3), jnp.float32),
    )


def in_float64(tree):
    return jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, tree)


def energy_with_the_search_held(hands, params, left_anchor, found, scale):
    vertices = posed_hands(hands, params, left_anchor).vertices
    depth = penetration_depth(hands, vertices, found)
    return jnp.sum(collision_energy(depth, scale, jnp.ones(len(scale), bool)))


@pytest.mark.parametrize("group", ["translation", "orientation", "finger_pose", "shape"])
def test_energy_gradient_to_every_group(hands, interlocked_params, group):
    """Central differences in float64, the search and the box scale held as the gradient does."""
    with jax.enable_x64(True):
        wide, params = in_float64(hands), in_float64(interlocked_params)
        anchor = jnp.zeros(4, bool)
        vertices = posed_hands(wide, params, anchor).vertices
        found, scale = search_culled(wide, vertices, jnp.ones(4, bool)), box_scale(vertices)
        scale = scale[..., ::-1]
        energy = jax.jit(lambda p: energy_with_the_search_held(wide, p, anchor, found, scale))
        gradient = jax.grad(energy)(params)
        rng = np.random.default_rng(0)
        for field in PARAMETER_GROUPS[group]:
            value = getattr(params, field)
            direction = jnp.asarray(rng.normal(size=value.shape))
            step = 1e-6
            up, down = (
                energy(dataclasses.replace(params, **{field: value + s * step * direction}))
                for s in (1, -1)
            )
            analytic = jnp.sum(getattr(gradient, field) * direction)
            assert field == "root_transl" or abs(analytic) > 1e-3
            np.testing.assert_allclose(analytic, (up - down) / (2 * step), rtol=1e-5, atol=1e-9)


def test_terms_with_a_kept_search_equal_the_depths_own(hands, interlocked_params):
    """Values and gradients of all collision terms, some frames apart; and nothing found at all."""
    terms = ("collision", "collision_squared", "collision_robust")
    apart = jnp.array([0, 1, 0, 0], jnp.float32)[:, None]
    params = dataclasses.replace(
        interlocked_params, relative_transl=interlocked_params.relative_transl + apart
    )
    seen = Observations(jnp.ones((4, 2), bool), jnp.zeros(4, bool))
    priors = make_priors(hands, "bone_aligned")
    weights = jnp.asarray(np.random.default_rng(0).uniform(1, 2, (3, 4)), jnp.float32)
    found = search_collisions(hands, params, seen)
    assert isinstance(found, Search)
    hit = found.inside.any(axis=(1, 2))
    assert hit[2] and not hit[1]

    def by_terms(params, found):
        energies = term_energies(hands, priors, params, seen, terms=terms, found=found)
        return jnp.sum(weights * jnp.stack([energies[term] for term in terms]))

    def by_depths(params, found):
        vertices = posed_hands(hands, params, seen.left_anchor).vertices
        depth, active = penetration_depth(hands, vertices, found), jnp.ones(4, bool)
        energies = [
            collision_energy(depth, box_scale(vertices)[..., ::-1], active),
            squared_depth_energy(depth, active),
            robust_depth_energy(depth, active),
        ]
        return jnp.sum(weights * jnp.stack(energies))

    value, gradient = jax.jit(jax.value_and_grad(by_terms))(params, found)
    expected, expected_gradient = jax.jit(jax.value_and_grad(by_depths))(params, found)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * float(jnp.abs(b).max()) + 1e-9)

    far = dataclasses.replace(params, relative_transl=params.relative_transl + 1)
    nothing = search_collisions(hands, far, seen)
    value, gradient = jax.jit(jax.value_and_grad(by_terms))(params, nothing)
    assert value == 0 and not any(np.any(np.asarray(x)) for x in jax.tree.leaves(gradient))


@pytest.mark.parametrize(("x64", "tolerance"), [(True, 1e-9), (False, 2e-5)])
def test_the_mirror_image_costs_and_pulls_the_same(hands, interlocked_params, x64, tolerance):
    """The anchor hand is swapped too; the search is made anew in the mirror."""
    with jax.enable_x64(x64):
        model, params = (hands, interlocked_params)
        if x64:
            model, params = in_float64(model), in_float64(params)

        def energy(p, left_anchor):
            vertices = posed_hands(model, p, left_anchor).vertices
            active = jnp.ones(4, bool)
            depth = exact_depths(model, vertices, active)
            return jnp.sum(collision_energy(depth, box_scale(vertices)[..., ::-1], active))

        both = jax.jit(jax.value_and_grad(energy))
        value, gradient = both(params, jnp.zeros(4, bool))
        image_value, image_gradient = both(mirrored_params(params), jnp.ones(4, bool))
        assert value > 0.1
        np.testing.assert_allclose(image_value, value, rtol=tolerance)
        for a, b in zip(
            jax.tree.leaves(image_gradient), jax.tree.leaves(mirrored_params(gradient)), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=tolerance * float(jnp.abs(b).max()) + 1e-12)


def test_no_hands_no_energy_no_nan(hands, interlocked_params):
    absent = jax.tree.map(jnp.zeros_like, interlocked_params)

    def energy(p):
        vertices = posed_hands(hands, p, jnp.zeros(4, bool)).vertices
        none = jnp.zeros(4, bool)
        return jnp.sum(
            collision_energy(exact_depths(hands, vertices, none), box_scale(vertices), none)
        )

    value, gradient = jax.jit(jax.value_and_grad(energy))(absent)
    assert value == 0 and all(not np.any(np.asarray(x)) for x in jax.tree.leaves(gradient))


@pytest.fixture(scope="module")
def many_pairs(hands):
    """Two hundred pairs over the range of motion, fists included, (200, 2, V, 3)."""
    rng = np.random.default_rng(17)
    poses = some_poses(hands, rng, 200)
    if hands.pose_samples is not None:
        # The embedded hand's first samples are its named poses, the fist among them.
        named = [samples[rng.integers(0, 11, 40)] for samples in hands.pose_samples]
        poses = poses.at[::5].set(jnp.stack(named, axis=1))
    posed = jax.jit(pose_hands)(
        hands,
        global_orient=jnp.asarray(rng.normal(0, 1.5, (200, 2, 3)), jnp.float32),
        hand_pose=poses,
        betas=jnp.asarray(rng.normal(0, 1.0, (200, 2, 10)), jnp.float32),
    )
    middle = posed.joints[..., 4, :]
    offset = jnp.asarray(rng.normal(0, 0.035, (200, 3)), jnp.float32)
    return assemble(posed.vertices, middle, offset, jnp.zeros(200, bool))


def test_engines_agree_with_libigl_on_many_pairs(hands, many_pairs):
    """All but one sign in 10,000 inside vertices; depth, AVE-P and MAX-P to 0.01 mm."""
    active = jnp.ones(len(many_pairs), bool)
    faces = np.asarray(hands.faces, np.int64)
    wide = np.asarray(many_pairs, np.float64)
    truth = np.zeros(wide.shape[:-1])
    for frame, hand in np.ndindex(wide.shape[:2]):
        query, target = wide[frame, hand], wide[frame, 1 - hand]
        inside = np.flatnonzero(winding_by_igl(target, faces[1 - hand], query) > 0.5)
        if len(inside):
            squared = closest_by_igl(query[inside], target, faces[1 - hand])[0]
            truth[frame, hand, inside] = np.sqrt(squared)
    inside = truth > 0
    assert inside.sum() > 10_000
    for engine in ("exact", "culled"):
        found = jax.jit(search, static_argnames="engine")(hands, many_pairs, active, engine=engine)
        depth = np.asarray(jax.jit(depths)(hands, many_pairs, found))
        # A vertex on the surface has no sign that float32 could tell.
        wrong = ((depth > 0) != inside) & (np.maximum(depth, truth) > 1e-6)
        assert wrong.sum() <= inside.sum() / 10_000, engine
        error = np.abs(depth - truth)[inside & ~wrong]
        assert np.quantile(error, 0.999) < 1e-5 and error.max() < 1e-4, engine
        for measure in (np.mean, np.max):
            got, expected = (measure(d.reshape(len(d), -1), axis=1) for d in (depth, truth))
            assert np.abs(got - expected).max() < 1e-5, engine


@pytest.mark.parametrize(
    "blocking", [Blocking(1, 16, 32), Blocking(5, 64, 100), Blocking(64, 778, 1538)]
)
def test_whatever_is_looked_at_together_the_answer_is_the_same(hands, interlocked, blocking):
    """Several tiles or one, one direction at a time or more than there are: to the bit."""
    active = jnp.ones(8, bool).at[3].set(False)
    for look in (search_exact, search_culled):
        expected, got = (
            look(hands, interlocked, active),
            jax.jit(look, static_argnames="blocking")(
                hands, interlocked, active, blocking=blocking
            ),
        )
        assert expected.inside.any(axis=-1).sum() > 8 and not expected.inside[3].any()
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)


def test_culled_is_exact_to_the_bit(hands, interlocked):
    got, expected = (
        f(hands, interlocked, jnp.ones(8, bool)) for f in (search_culled, search_exact)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_engine_minds_the_batch_around_a_frame(hands, interlocked):
    for engine in ("exact", "culled"):
        run = jax.jit(search, static_argnames="engine")
        together = run(hands, interlocked, jnp.ones(8, bool), engine=engine)
        order = jnp.array([5, 2, 7])
        apart = run(hands, interlocked[order], jnp.ones(3, bool), engine=engine)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
            np.testing.assert_array_equal(np.asarray(a)[order], b)


BANDS = (0.0005, 0.002, 0.005)


@pytest.fixture(scope="module")
def placed(hands, interlocked):
    """Eight touching pairs, the same eased apart until they graze, and apart; (24, 2, V, 3).

    Grazing pairs have between no and 4 mm of air, so that a band decides what is found.
    """
    away = jnp.array([1.0, 0.3, 0.2], jnp.float32)
    away = away / jnp.linalg.norm(away)
    active = jnp.ones(8, bool)
    # The exact gap along that way, by halving.
    low, high = jnp.zeros(8), jnp.full(8, 0.5)
    some = jax.jit(lambda v: search_culled(hands, v, active).inside.any(axis=(1, 2)))
    for _ in range(14):
        middle = (low + high) / 2
        hit = some(interlocked.at[:, 1].add(middle[:, None, None] * away))
        low, high = jnp.where(hit, middle, low), jnp.where(hit, high, middle)
    air = jnp.linspace(0, 0.004, 8)
    grazing = interlocked.at[:, 1].add((high + air)[:, None, None] * away)
    apart = interlocked.at[:, 1].add((high + 0.02)[:, None, None] * away)
    return jnp.concatenate([interlocked, grazing, apart])


@pytest.fixture(scope="module")
def distance_by_igl(hands, placed):
    """Distance of every vertex to the other hand in float64, (24, 2, V)."""
    wide, distance = np.asarray(placed, np.float64), np.zeros(placed.shape[:-1])
    for frame, hand in np.ndindex(placed.shape[:2]):
        faces = np.asarray(hands.faces[1 - hand], np.int64)
        distance[frame, hand] = np.sqrt(
            closest_by_igl(wide[frame, hand], wide[frame, 1 - hand], faces)[0]
        )
    return distance


@pytest.mark.parametrize("band", [*BANDS, math.inf])
@pytest.mark.parametrize("look", [search_exact, search_culled])
def test_a_band_finds_all_that_is_within_it_and_nothing_else(
    hands, placed, distance_by_igl, look, band
):
    """And leaves what is inside as it is; an infinite one finds everything, hands apart too."""
    active = jnp.ones(24, bool).at[2].set(False)
    plain = look(hands, placed, active)
    found = jax.jit(look, static_argnames="band")(hands, placed, active, band=band)
    inside = np.asarray(found.inside)
    for name in ("inside", "face", "above"):
        got, expected = (np.asarray(getattr(x, name)) for x in (found, plain))
        np.testing.assert_array_equal(got[inside], expected[inside])
    np.testing.assert_array_equal(inside, plain.inside)
    near = ~inside & (np.asarray(found.face) >= 0)
    distance = np.asarray(surface_distance(hands, placed, found))
    np.testing.assert_allclose(distance[near], distance_by_igl[near], atol=1e-6)
    assert not near[2].any() and np.isinf(distance[~inside & ~near]).all()
    searched = ~inside & np.asarray(active)[:, None, None]
    assert near[searched & (distance_by_igl < band - 1e-6)].all()
    assert not near[distance_by_igl > band + 1e-6].any()
    if band == math.inf:
        assert near[searched].all()
    else:
        assert not near[16:].any() and near[8:16].any() and near[:8].sum() > 30


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("blocking", [None, Blocking(5, 64, 100)])
def test_culled_is_exact_to_the_bit_with_a_band(hands, placed, band, blocking):
    active = jnp.ones(24, bool)
    got = search_culled(hands, placed, active, band=band, blocking=blocking)
    expected = search_exact(hands, placed, active, band=band)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_band_is_a_distance_and_needs_faces(hands, interlocked):
    active = jnp.ones(8, bool)
    for look in (search_exact, search_culled):
        for band in (-0.001, math.nan):
            with pytest.raises(ValueError, match="at least 0"):
                look(hands, interlocked, active, band=band)
    with pytest.raises(ValueError, match="'culled' or 'exact'; received 'voxel'"):
        search(hands, interlocked, active, engine="voxel", band=0.001)


def test_a_band_changes_no_depth(hands, placed):
    active = jnp.ones(24, bool)

    @jax.jit
    def squared(vertices, found):
        total = jax.value_and_grad(lambda v: jnp.sum(penetration_depth(hands, v, found) ** 2))
        return penetration_depth(hands, vertices, found), total(vertices)

    plain, banded = (search_culled(hands, placed, active, band=band) for band in (0.0, 0.005))
    got, expected = squared(placed, banded), squared(placed, plain)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7 * float(jnp.abs(b).max()))


def test_terms_are_the_same_by_any_search_whose_band_is_enough(hands, interlocked_params):
    """Afresh, by the culled engine, and by the reference with all the faces; one frame apart."""
    seen = Observations(jnp.ones((4, 2), bool), jnp.zeros(4, bool))
    priors, terms = make_priors(hands, "bone_aligned"), COLLISION_TERMS
    params = dataclasses.replace(
        interlocked_params, relative_transl=interlocked_params.relative_transl.at[1].add(1.0)
    )

    @jax.jit
    def both(params, found):
        def total(params):
            energies = term_energies(hands, priors, params, seen, terms=terms, found=found)
            return jnp.sum(jnp.stack([energies[term] for term in terms])), energies

        return jax.value_and_grad(total, has_aux=True)(params)

    (_, expected), gradient = both(params, None)
    assert expected["contact"][0] > 0 and expected["contact"][1] == 0
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradient))
    searches: dict[CollisionEngine, float] = {"culled": collision_band(terms), "exact": math.inf}
    for engine, band in searches.items():
        found = search_collisions(hands, params, seen, band=band, engine=engine)
        (_, got), got_gradient = both(params, found)
        for term in terms:
            np.testing.assert_allclose(got[term], expected[term], rtol=1e-5)
        for a, b in zip(jax.tree.leaves(got_gradient), jax.tree.leaves(gradient), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()) + 1e-9)


def test_signed_depth_continues_the_depth_outside(hands, placed, distance_by_igl):
    found = search_culled(hands, placed, jnp.ones(24, bool), band=0.005)
    signed = np.asarray(signed_depth(hands, placed, found))
    depth = np.asarray(penetration_depth(hands, placed, found))
    known = np.asarray(found.face) >= 0
    np.testing.assert_allclose(np.maximum(signed, 0), depth, atol=1e-6)
    expected = np.where(found.inside, distance_by_igl, -distance_by_igl)
    np.testing.assert_allclose(signed[known], expected[known], atol=1e-6)
    assert (signed[~known] == -np.inf).all() and (signed[known] < 0).sum() > 500
    nothing = search_culled(hands, placed[16:], jnp.ones(8, bool), band=0.005)
    assert (signed_depth(hands, placed[16:], nothing) == -jnp.inf).all()


def test_kept_signed_depth_follows_vertices_across_the_surface(hands, interlocked):
    active = jnp.ones(8, bool)
    found = search_culled(hands, interlocked, active, band=0.002)
    moved = interlocked.at[:, 1].add(jnp.array([0.0007, 0.0, 0.0], jnp.float32))
    kept = np.asarray(signed_depth(hands, moved, found))
    fresh = np.asarray(signed_depth(hands, moved, search_culled(hands, moved, active, band=0.002)))
    both = np.isfinite(kept) & np.isfinite(fresh)
    crossed = both & ((fresh > 0) != np.asarray(found.inside))
    assert crossed.sum() > 20
    error = np.abs(np.where(both, kept, 0) - np.where(both, fresh, 0))
    assert np.quantile(error[both], 0.95) < 2e-4 and np.median(error[crossed]) < 1e-5


def test_signed_depths_gradient_is_exact_with_the_face_frozen(hands, placed):
    """Central differences in float64, by both meshes, across inside and outside."""
    with jax.enable_x64(True):
        wide, vertices = in_float64(hands), placed[:1].astype(jnp.float64)
        found = search_culled(wide, vertices, jnp.ones(1, bool), band=0.005)
        known = found.face >= 0
        weight = jnp.asarray(np.random.default_rng(2).normal(size=known.shape))

        def total(v):
            # A choice before the product: the gradient of an unused infinity is not NaN.
            return jnp.sum(weight * jnp.where(known, signed_depth(wide, v, found), 0.0))

        gradient = jax.grad(total)(vertices)
        rng, step = np.random.default_rng(1), 1e-7
        for hand in range(2):
            direction = jnp.zeros_like(vertices).at[:, hand].set(rng.normal(size=(1, 778, 3)))
            up, down = (total(vertices + s * step * direction) for s in (1, -1))
            analytic = jnp.sum(gradient * direction)
            assert abs(analytic) > 1e-1
            np.testing.assert_allclose(analytic, (up - down) / (2 * step), rtol=1e-4)


def test_gradients_are_finite_and_point_out_where_vertices_coincide(hands, interlocked):
    same = interlocked.at[:, 1].set(interlocked[:, 0])
    found = search_culled(hands, same, jnp.ones(8, bool), band=0.001)
    known = found.face >= 0
    assert known.sum() > 1000

    def total(v):
        return jnp.sum(jnp.where(known, signed_depth(hands, v, found), 0.0))

    assert jnp.isfinite(jax.grad(total)(same)).all()
    rows = contact_rows(hands, same, found, count=40, margin=0.0005)
    # On the surface the face's own normal is the way out.
    length = np.linalg.norm(rows.normal, axis=-1)
    np.testing.assert_allclose(length, 1, atol=1e-4)
    np.testing.assert_allclose(rows.residual, 0.0005 + np.asarray(rows.depth), atol=1e-6)


def test_contact_rows_linearise_the_signed_depth(hands, placed):
    """depth = normal . (closest - vertex); its derivatives are `jax.grad`'s, in float64."""
    count, margin = 30, 0.0005
    with jax.enable_x64(True):
        wide, vertices = in_float64(hands), placed.astype(jnp.float64)
        found = search_culled(wide, vertices, jnp.ones(24, bool), band=0.002)
        rows = contact_rows(wide, vertices, found, count=count, margin=margin)
        weight = jnp.asarray(np.random.default_rng(4).normal(size=rows.depth.shape))
        says = jnp.linalg.norm(rows.normal, axis=-1) > 0
        assert says.any(axis=-1).sum() > 16 and (~says).sum() > 16 * count
        assert (rows.depth[says] > 0).sum() > 100 and (rows.depth[says] < 0).sum() > 50

        def by_signed_depth(v):
            depth = jnp.take_along_axis(signed_depth(wide, v, found), rows.vertex, axis=-1)
            return jnp.sum(jnp.where(says, weight * jnp.where(says, depth, 0.0), 0.0))

        def by_rows(v):
            points = jnp.take_along_axis(v, rows.vertex[..., None], axis=-2)
            others, index = v[:, ::-1], rows.corners.reshape(24, 2, 3 * count, 1)
            corners = jnp.take_along_axis(others, index, axis=-2).reshape(24, 2, count, 3, 3)
            closest = jnp.sum(rows.barycentric[..., None] * corners, axis=-2)
            return jnp.sum(weight * jnp.sum(rows.normal * (closest - points), axis=-1))

        value, gradient = jax.value_and_grad(by_rows)(vertices)
        expected, expected_gradient = jax.value_and_grad(by_signed_depth)(vertices)
        np.testing.assert_allclose(value, expected, rtol=1e-12)
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-12)
        np.testing.assert_allclose(jnp.linalg.norm(rows.normal, axis=-1)[says], 1, rtol=1e-9)


@pytest.mark.parametrize("margin", [0.0, 0.0005])
def test_contact_rows_are_the_deepest(hands, placed, margin):
    found = search_culled(hands, placed, jnp.ones(24, bool), band=0.002)
    depth = np.asarray(signed_depth(hands, placed, found))
    rows = contact_rows(hands, placed, found, count=12, margin=margin)
    expected = -np.sort(-depth, axis=-1)[..., :12]
    says = np.isfinite(expected)
    np.testing.assert_allclose(np.asarray(rows.depth)[says], expected[says], atol=1e-7)
    np.testing.assert_allclose(rows.residual, np.maximum(expected + margin, 0), atol=1e-7)
    assert (np.asarray(rows.residual) > 0).sum() > 150
    # What was not found says nothing, in any arithmetic.
    assert not says[16:].any() and (np.asarray(rows.normal)[~says] == 0).all()
    np.testing.assert_allclose(np.asarray(rows.depth)[~says], -margin, rtol=1e-6)
    points = np.take_along_axis(np.asarray(placed), np.asarray(rows.vertex)[..., None], axis=-2)
    out = np.sum(np.asarray(rows.normal) * (np.asarray(rows.closest) - points), axis=-1)
    np.testing.assert_allclose(out[says], np.asarray(rows.depth)[says], atol=1e-7)


def test_other_energies():
    depth = jnp.zeros((1, 2, 5)).at[0, 0, :2].set(0.01)
    on, off = jnp.array([True]), jnp.array([False])
    np.testing.assert_allclose(squared_depth_energy(depth, on), [2e-4], rtol=1e-6)
    np.testing.assert_allclose(robust_depth_energy(depth, on), [2 * 0.5], rtol=1e-6)
    distance = jnp.array([[[0.004, 0.006, 0.003]], [[0.004, 0.006, 0.003]]]).reshape(1, 2, 3)
    inside = jnp.array([[[False, False, True], [False, False, False]]])
    np.testing.assert_allclose(
        contact_energy(distance, inside, on), [2 * 0.004**2 + 0.003**2], rtol=1e-5
    )
    for energy in (squared_depth_energy, robust_depth_energy):
        assert energy(depth, off) == 0
    assert contact_energy(distance, inside, off) == 0


@pytest.mark.parametrize(
    ("published", "mean_mm", "p95_mm"), [(False, (0.05, 0.4), 1.0), (True, (2.9, 3.5), 7.0)]
)
def test_the_published_grid_is_half_a_cell_out_of_register(published, mean_mm, p95_mm):
    """A ball as large as a hand: the registered grid errs by interpolation only."""
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.095)
    triangles = jnp.asarray(ball.triangles, jnp.float32)
    none = jnp.zeros((0, 3, 3), jnp.float32)
    phi = depth_grid(triangles, none, published=published)
    corners = triangles.reshape(-1, 3)
    scale, centre = box_scale(corners), box_centre(corners)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2000, 3))
    points *= (0.09 * rng.uniform(0.3, 1, (2000, 1))) / np.linalg.norm(
        points, axis=1, keepdims=True
    )
    local = (jnp.asarray(points, jnp.float32) - centre) / scale
    read = np.asarray(sample_grid(phi, local) * scale)
    error = 1000 * np.abs(read - (0.095 - np.linalg.norm(points, axis=1)))
    assert mean_mm[0] < error.mean() < mean_mm[1] and np.quantile(error, 0.95) < p95_mm
    # Half a cell along every axis: 0.228 m / 31 / 2 = 3.7 mm.
    assert 0.5 * 2 * float(scale) / (CELLS - 1) == pytest.approx(0.003677, abs=2e-5)


def test_descent_on_the_collision_alone_parts_the_hands(hands):
    """At least 62 of 64 pairs under 12 mm deep end under 0.1 mm, and do not fly apart."""
    rng = np.random.default_rng(23)
    poses = some_poses(hands, rng, 900)
    drawn = TwoHandParams(
        global_orient=jnp.asarray(rng.normal(0, 1.5, (900, 2, 3)), jnp.float32),
        hand_pose=poses,
        betas=jnp.asarray(rng.normal(0, 0.5, (900, 2, 10)), jnp.float32),
        relative_transl=jnp.asarray(rng.normal(0, 0.07, (900, 3)), jnp.float32),
        root_transl=jnp.zeros((900, 3), jnp.float32),
        weak_camera=jnp.zeros((900, 3), jnp.float32),
    )

    @jax.jit
    def deepest_mm(params):
        frames = len(params.betas)
        vertices = posed_hands(hands, params, jnp.zeros(frames, bool)).vertices
        found = search_culled(hands, vertices, jnp.ones(frames, bool))
        return 1000 * penetration_depth(hands, vertices, found).max(axis=(1, 2))

    depth = np.asarray(deepest_mm(drawn))
    chosen = np.flatnonzero((depth > 0.5) & (depth < 12))[:64]
    assert len(chosen) == 64
    start = jax.tree.map(lambda x: x[chosen], drawn)
    stage = Stage(
        name="apart",
        step_sizes={"translation": 3e-3, "orientation": 2e-2, "finger_pose": 2e-2},
        weights={"collision": 1.0},
        iterations=301,
        acceptance=Acceptance(select_by=("collision",), max_ratio={}, every=5),
    )
    strategy = Strategy(
        name="apart", description="", report_weights={"collision": 1.0}, stages=(stage,)
    )
    numbers, shape = stage_program(strategy, stage)
    seen = Observations(jnp.ones((64, 2), bool), jnp.zeros(64, bool))
    run = jax.jit(run_stage, static_argnames="shape")
    end = run(hands, make_priors(hands, "bone_aligned"), start, seen, numbers, shape=shape)
    solved = np.asarray(deepest_mm(end)) < 0.1
    assert solved.sum() >= 62
    moved = 1000 * np.linalg.norm(end.relative_transl - start.relative_transl, axis=1)
    assert np.median(moved / depth[chosen]) < 2
