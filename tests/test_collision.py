"""The exact collision engine against libigl, and against its own degenerate cases."""

import dataclasses

import igl
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fitting.parameters import PARAMETER_GROUPS
from mano_jax.model import assemble, pose_hands
from mano_jax.topology import cap_faces
from objectives.collision import (
    box_scale,
    collision_energy,
    exact_depths,
    exact_distances,
    penetration_depth,
    search,
)
from objectives.collision.exact import (
    barycentric_of_closest,
    closest_face,
    winding_number,
)
from objectives.problem import TwoHandParams, posed_hands
from tests.objective_cases import mirrored_params


@pytest.fixture(scope="module")
def interlocked(hands):
    """Vertices of eight frames of two hands that run into each other, (8, 2, V, 3)."""
    rng = np.random.default_rng(3)
    pick = rng.integers(0, len(hands.pose_samples[0]), (2, 8))
    posed = pose_hands(
        hands,
        global_orient=jnp.asarray(rng.normal(size=(8, 2, 3)), jnp.float32),
        hand_pose=jnp.stack([hands.pose_samples[h][pick[h]] for h in range(2)], axis=1),
        betas=jnp.asarray(rng.normal(0, 0.5, (8, 2, 10)), jnp.float32),
    )
    tau = jnp.asarray(rng.normal(0, 0.02, (8, 3)), jnp.float32)
    wrists = posed.joints[..., 0, :]
    return jax.block_until_ready(assemble(posed.vertices, wrists, tau, jnp.zeros(8, bool)))


@pytest.fixture(scope="module")
def oracle(hands, interlocked):
    """Winding number and distance by libigl in float64, each (8, 2, V)."""
    winding, distance = np.zeros((2, *interlocked.shape[:-1]))
    for frame, hand in np.ndindex(interlocked.shape[:2]):
        query = np.asarray(interlocked[frame, hand], np.float64)
        target = np.asarray(interlocked[frame, 1 - hand], np.float64)
        faces = np.asarray(hands.faces[1 - hand], np.int64)
        winding[frame, hand] = igl.winding_number(target, faces, query)
        distance[frame, hand] = np.sqrt(igl.point_mesh_squared_distance(query, target, faces)[0])
    return winding, distance


def test_sign_and_distance_equal_libigl(hands, interlocked, oracle):
    winding, distance = oracle
    active = jnp.ones(8, bool)
    found = search(hands, interlocked, active)
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
    expected = igl.winding_number(
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
    expected = igl.winding_number(vertices, faces, queries)
    target = jnp.asarray(vertices, jnp.float32)
    got = winding_number(jnp.asarray(queries, jnp.float32), target[faces], target[cap_faces(faces)])
    off_surface = igl.point_mesh_squared_distance(queries, vertices, faces)[0] > 1e-10
    np.testing.assert_allclose(np.asarray(got)[off_surface], expected[off_surface], atol=1e-4)
    assert (expected[off_surface] > 0.5).sum() > 100


def test_boxes_apart_are_skipped_and_right(hands, interlocked):
    apart = interlocked.at[:, 1].add(jnp.float32(1.0))
    found = search(hands, apart, jnp.ones(8, bool))
    assert not found.inside.any() and (found.face == -1).all()
    assert (search(hands, interlocked, jnp.zeros(8, bool)).face == -1).all()


def test_closest_face_is_the_first_of_the_closest():
    triangle = jnp.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], jnp.float32)
    triangles = jnp.stack([triangle + 5, triangle, triangle])
    assert closest_face(jnp.zeros((1, 3), jnp.float32), triangles)[0] == 1


def test_closest_point_in_every_region_of_a_triangle():
    triangle = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    points = np.random.default_rng(0).uniform(-1.5, 2.5, (400, 3)).astype(np.float32)
    barycentric = barycentric_of_closest(
        jnp.asarray(points), jnp.broadcast_to(triangle, (400, 3, 3))
    )
    squared, _, closest = igl.point_mesh_squared_distance(
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
    found = search(hands, interlocked, active)
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
    found = search(hands, apart, jnp.ones(8, bool))
    assert (penetration_depth(hands, interlocked, found) == 0).all()


def test_energy_is_ihmrs_normalisation():
    depth = jnp.zeros((2, 2, 5)).at[0, 0, :2].set(0.01).at[0, 1, 3].set(0.004)
    scale = jnp.array([[0.1, 0.2], [0.1, 0.2]])
    energy = collision_energy(depth, scale, jnp.array([True, True]))
    # The right hand's vertices are in the left hand, and are measured by the left hand's box.
    np.testing.assert_allclose(energy, [0.25 * (0.02 / 0.2 + 0.004 / 0.1), 0], rtol=1e-6)
    assert collision_energy(depth, 0 * scale, jnp.array([False, False])).tolist() == [0, 0]
    box = jnp.array([[0.0, 0, 0], [0.1, 0.3, 0.2]])
    np.testing.assert_allclose(box_scale(box), 0.18, rtol=1e-6)


def test_gradient_is_exact_with_the_face_frozen(hands, interlocked):
    """Against central differences in float64, for both meshes."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, hands)
        vertices = interlocked[:1].astype(jnp.float64)
        found = search(wide, vertices, jnp.ones(1, bool))

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
    found = search(hands, same, jnp.ones(8, bool))
    gradient = jax.grad(lambda v: penetration_depth(hands, v, found).sum())(same)
    assert jnp.isfinite(gradient).all()


def test_pairwise_arrays_are_not_kept(hands, interlocked):
    """Memory is bounded by tiling: 64 frames need no more than a few directions' arrays."""
    many = jnp.tile(interlocked, (8, 1, 1, 1))
    compiled = jax.jit(lambda v, active: search(hands, v, active))
    compiled = compiled.lower(many, jnp.ones(64, bool)).compile()
    one_direction = 778 * 1552 * 4
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * one_direction


@pytest.fixture(scope="module")
def interlocked_params(hands):
    """Parameters of four frames of two hands that run into each other."""
    rng = np.random.default_rng(5)
    pick = rng.integers(0, len(hands.pose_samples[0]), (2, 4))
    return TwoHandParams(
        global_orient=jnp.asarray(rng.normal(size=(4, 2, 3)), jnp.float32),
        hand_pose=jnp.stack([hands.pose_samples[h][pick[h]] for h in range(2)], axis=1),
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
        found, scale = search(wide, vertices, jnp.ones(4, bool)), box_scale(vertices)
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
            return jnp.sum(collision_energy(depth, box_scale(vertices), active))

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
