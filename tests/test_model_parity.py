"""The hand model against a loop-by-loop oracle, and against other people's programs."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mano_jax.export import export_hands
from mano_jax.joint_orders import fingertip_vertices
from mano_jax.model import pose_hands, pose_joints, two_hands
from tests.reference_hand import pose_one_hand

NUMBER = 100


@pytest.fixture(scope="module")
def inputs():
    """Seeded poses of both hands: any orientation, fingers to about a radian, wide shapes."""
    generator = np.random.default_rng(7)
    return {
        "global_orient": generator.normal(scale=1.5, size=(NUMBER, 2, 3)),
        "hand_pose": generator.normal(scale=0.4, size=(NUMBER, 2, 15, 3)),
        "betas": generator.normal(scale=1.5, size=(NUMBER, 2, 10)),
        "transl": generator.normal(scale=0.1, size=(NUMBER, 2, 3)),
    }


@pytest.fixture(scope="module")
def models(right_model, left_model):
    return right_model, left_model


@pytest.fixture(scope="module")
def expected(models, inputs):
    """Vertices (N, 2, V, 3) and joints (N, 2, 21, 3) of the oracle."""
    tips = fingertip_vertices()
    posed = [
        [
            pose_one_hand(models[h], tips[h], **{k: inputs[k][n, h] for k in inputs})
            for h in range(2)
        ]
        for n in range(NUMBER)
    ]
    vertices = np.array([[hand[0] for hand in frame] for frame in posed])
    return vertices, np.array([[hand[1] for hand in frame] for frame in posed])


def both_paths(models, inputs, dtype):
    hands = two_hands(*models, dtype=jnp.dtype(dtype))
    arguments = {name: jnp.asarray(value, dtype) for name, value in inputs.items()}
    posed = jax.jit(pose_hands)(hands, **arguments)
    joints = jax.jit(pose_joints)(hands, **arguments)
    return np.asarray(posed.vertices), np.asarray(posed.joints), np.asarray(joints)


def largest(a, b):
    return np.abs(np.asarray(a, np.float64) - b).max()


def check(found, expected, tolerance):
    vertices, joints, joints_alone = found
    assert largest(vertices, expected[0]) < tolerance
    assert largest(joints, expected[1]) < tolerance
    assert largest(joints_alone, expected[1]) < tolerance


def test_float32_agrees_with_the_oracle(models, inputs, expected):
    check(both_paths(models, inputs, jnp.float32), expected, 1e-6)


def test_float64_agrees_with_the_oracle(models, inputs, expected):
    with jax.enable_x64(True):
        found = both_paths(models, inputs, jnp.float64)
    assert found[0].dtype == np.float64
    check(found, expected, 1e-12)


@pytest.fixture(scope="module")
def exported(models, tmp_path_factory):
    right, left = models
    return export_hands(right, left, tmp_path_factory.mktemp("exported"))


def pickle_of(exported, side):
    return next(path for path in exported if path.name == f"MANO_{side.upper()}.pkl")


@pytest.fixture(scope="module")
def ours(models, inputs):
    return both_paths(models, inputs, jnp.float32)


@pytest.mark.parametrize("hand, side", [(0, "right"), (1, "left")])
def test_smplx_agrees(exported, ours, inputs, hand, side):
    """16 joints and all vertices of smplx.MANO, reading our exported file."""
    reason = "smplx and torch are not installed: pip install 'manofit[interop]'"
    torch = pytest.importorskip("torch", reason=reason)
    smplx = pytest.importorskip("smplx", reason=reason)
    with warnings.catch_warnings():
        # smplx unpickles with the modules that the official files name (scipy.sparse.csc).
        warnings.simplefilter("ignore")
        layer = smplx.MANO(
            str(pickle_of(exported, side)),
            is_rhand=side == "right",
            use_pca=False,
            flat_hand_mean=True,
        )
        with torch.no_grad():
            theirs = layer(
                global_orient=torch.tensor(inputs["global_orient"][:, hand], dtype=torch.float32),
                hand_pose=torch.tensor(
                    inputs["hand_pose"][:, hand].reshape(-1, 45), dtype=torch.float32
                ),
                betas=torch.tensor(inputs["betas"][:, hand], dtype=torch.float32),
                transl=torch.tensor(inputs["transl"][:, hand], dtype=torch.float32),
            )
    vertices, joints, joints_alone = ours
    assert theirs.joints.shape[1] >= 16
    assert largest(vertices[:, hand], theirs.vertices.numpy()) < 1e-6
    assert largest(joints[:, hand, :16], theirs.joints.numpy()[:, :16]) < 1e-6
    assert largest(joints_alone[:, hand, :16], theirs.joints.numpy()[:, :16]) < 1e-6


@pytest.mark.parametrize("backend", ["numpy", "jax"])
@pytest.mark.parametrize("hand, side", [(0, "right"), (1, "left")])
def test_body_models_agrees(exported, ours, inputs, hand, side, backend):
    """16 joints and all vertices of body-models' MANO, reading our exported file."""
    reason = "body-models is not installed: pip install 'manofit[interop]'"
    module = pytest.importorskip(f"body_models.mano.{backend}", reason=reason)
    arguments = {
        name: np.asarray(inputs[source][:, hand], np.float32)
        for name, source in (
            ("hand_pose", "hand_pose"),
            ("wrist_rotation", "global_orient"),
            ("shape", "betas"),
            ("global_translation", "transl"),
        )
    }
    with warnings.catch_warnings(), jax.numpy_dtype_promotion("standard"):
        warnings.simplefilter("ignore")
        model = module.MANO(model_path=pickle_of(exported, side), flat_hand_mean=True)
        their_vertices = np.asarray(model.forward_vertices(**arguments))
        their_joints = np.asarray(model.forward_skeleton(**arguments))[..., :3, 3]
    vertices, joints, _ = ours
    assert largest(vertices[:, hand], their_vertices) < 1e-6
    assert largest(joints[:, hand, :16], their_joints) < 1e-6
