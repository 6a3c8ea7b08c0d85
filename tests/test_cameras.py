"""Cameras against OpenCV's documented formula, written out in NumPy, one point at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mano_jax.cameras import (
    distort,
    invert_transform,
    project_perspective,
    project_weak,
    transform,
)

project = jax.jit(project_perspective)

COUNTS = (0, 4, 5, 8, 12)


def opencv_projection(point, K, coefficients):
    """Pixel of one point by the formulas of OpenCV's calib3d documentation."""
    d = dict(
        zip(
            ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6", "s1", "s2", "s3", "s4"),
            [*coefficients, *[0.0] * 12],
            strict=False,
        )
    )
    x, y = point[0] / point[2], point[1] / point[2]
    r = (x**2 + y**2) ** 0.5
    above = 1 + d["k1"] * r**2 + d["k2"] * r**4 + d["k3"] * r**6
    below = 1 + d["k4"] * r**2 + d["k5"] * r**4 + d["k6"] * r**6
    x_tangential = 2 * d["p1"] * x * y + d["p2"] * (r**2 + 2 * x**2)
    y_tangential = d["p1"] * (r**2 + 2 * y**2) + 2 * d["p2"] * x * y
    x_prism, y_prism = d["s1"] * r**2 + d["s2"] * r**4, d["s3"] * r**2 + d["s4"] * r**4
    image = np.array(
        [x * above / below + x_tangential + x_prism, y * above / below + y_tangential + y_prism, 1]
    )
    return (K @ image)[:2]


@pytest.fixture
def scene():
    """Points in front of four cameras, metres, with intrinsics in pixels."""
    generator = np.random.default_rng(0)
    points = generator.uniform([-0.3, -0.3, 0.4], [0.3, 0.3, 1.5], size=(4, 7, 3))
    K = np.tile(np.eye(3), (4, 1, 1))
    K[:, 0, 0], K[:, 1, 1] = generator.uniform(400, 2000, size=(2, 4))
    K[:, 0, 1] = [0.0, 0.0, 3.0, -2.0]
    K[:, :2, 2] = generator.uniform(100, 900, size=(4, 2))
    return points, K, generator.normal(scale=0.05, size=(4, 12))


class TestPerspective:
    @pytest.mark.parametrize("count", COUNTS)
    def test_against_opencvs_formula(self, scene, count):
        points, K, coefficients = scene
        coefficients = coefficients[:, :count]
        expected = [
            [opencv_projection(p, K[n], coefficients[n]) for p in points[n]] for n in range(4)
        ]
        with jax.enable_x64(True):
            found = project(*map(jnp.asarray, (points, K, coefficients)))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)

    def test_float32(self, scene):
        points, K, coefficients = scene
        arguments = [jnp.asarray(a, jnp.float32) for a in (points, K, coefficients[:, :5])]
        expected = [
            [opencv_projection(p, K[n], coefficients[n, :5]) for p in points[n]] for n in range(4)
        ]
        np.testing.assert_allclose(project(*arguments), expected, rtol=0, atol=2e-3)

    def test_without_distortion(self, scene):
        points, K, _ = (jnp.asarray(a, jnp.float32) for a in scene)
        plain = project_perspective(points, K)
        np.testing.assert_array_equal(plain, project_perspective(points, K, None))
        np.testing.assert_array_equal(plain, project_perspective(points, K, jnp.zeros((4, 0))))
        np.testing.assert_allclose(
            plain, project_perspective(points, K, jnp.zeros((4, 5))), rtol=1e-6
        )

    @pytest.mark.parametrize("count", [1, 3, 6, 14])
    def test_other_numbers_of_coefficients(self, scene, count):
        points, K = (jnp.asarray(a, jnp.float32) for a in scene[:2])
        with pytest.raises(ValueError, match=rf"{count} coefficients; expected one of \(0, 4, 5"):
            project_perspective(points, K, jnp.zeros((4, count)))

    @pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
    def test_any_batch_shape(self, batch):
        def of(*shape):
            return jax.ShapeDtypeStruct((*batch, *shape), jnp.float32)

        shape = (*batch, 5, 2)
        arguments = of(5, 3), of(3, 3), of(4)
        assert jax.eval_shape(project_perspective, *arguments).shape == shape
        assert jax.eval_shape(project_weak, of(5, 3), of(3)).shape == shape
        assert jax.eval_shape(distort, of(5, 2), of(4)).shape == shape

    @pytest.mark.parametrize("count", COUNTS)
    def test_finite_at_and_behind_the_camera(self, scene, count):
        _, K, coefficients = (jnp.asarray(a, jnp.float32) for a in scene)
        depths = jnp.array([1e-3, 0.0, -1e-6, -0.5])[:, None]
        points = jnp.concatenate(
            [jnp.concatenate([jnp.full((4, 2), x), depths], -1) for x in (0.0, 0.1)]
        )

        def total(points, K, coefficients):
            return jnp.sum(project_perspective(points, K, coefficients))

        arguments = (points, K[0], coefficients[0, :count])
        assert np.isfinite(project(*arguments)).all()
        for gradient in jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*arguments):
            assert np.isfinite(gradient).all()


class TestWeak:
    def test_formula(self):
        """u = s (X + t), every view its own camera."""
        points = np.random.default_rng(1).normal(size=(3, 6, 3))
        camera = np.array([[5.0, 0.1, -0.2], [7.0, 0.0, 0.3], [-1.0, 2.0, 0.0]])
        with jax.enable_x64(True):
            found = project_weak(jnp.asarray(points), jnp.asarray(camera))
        for n in range(3):
            s, t = camera[n, 0], camera[n, 1:]
            np.testing.assert_allclose(found[n], s * (points[n, :, :2] + t), rtol=0, atol=1e-14)

    def test_depth_does_not_matter(self):
        points = jnp.array([[0.1, 0.2, 0.3], [0.1, 0.2, -9.0]])
        found = project_weak(points, jnp.array([5.0, 0.1, -0.1]))
        np.testing.assert_array_equal(found[0], found[1])


class TestTransforms:
    @pytest.fixture
    def T(self):
        T = np.tile(np.eye(4), (4, 1, 1))
        T[:, :3, :3] = Rotation.random(4, rng=np.random.default_rng(2)).as_matrix()
        T[:, :3, 3] = np.random.default_rng(2).normal(size=(4, 3))
        return T

    def test_against_homogeneous_products(self, scene, T):
        homogeneous = np.concatenate([scene[0], np.ones((4, 7, 1))], axis=-1)
        expected = np.einsum("nij,npj->npi", T, homogeneous)[..., :3]
        with jax.enable_x64(True):
            found = jax.jit(transform)(jnp.asarray(T), jnp.asarray(scene[0]))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)

    def test_inverse(self, scene, T):
        with jax.enable_x64(True):
            inverse = jax.jit(invert_transform)(jnp.asarray(T))
            back = transform(inverse, transform(jnp.asarray(T), jnp.asarray(scene[0])))
        np.testing.assert_allclose(inverse, np.linalg.inv(T), rtol=0, atol=1e-14)
        np.testing.assert_allclose(back, scene[0], rtol=0, atol=1e-14)

    def test_a_point_seen_by_two_cameras_is_the_same_point(self, scene, T):
        """Moving the camera and the scene alike changes no pixel."""
        points, K, _ = scene
        with jax.enable_x64(True):
            moved = transform(jnp.asarray(T), jnp.asarray(points))
            back = transform(invert_transform(jnp.asarray(T)), moved)
            found = project_perspective(back, jnp.asarray(K))
            expected = project_perspective(jnp.asarray(points), jnp.asarray(K))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
