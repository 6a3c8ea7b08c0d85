"""A frame and its mirror image cost the same, and pull the same way."""

import jax
import numpy as np
import pytest

from tests.objective_cases import (
    CAMERAS,
    FIELDS,
    NAMES,
    as_dtype,
    make_frames,
    make_model,
    mirrored_observations,
    mirrored_params,
    values_and_gradients,
)

_ONE_HANDED = [2, 3]
_TWO_HANDED = [0, 1, 4]


def _with_its_mirror_image(camera: str, dtype: type) -> tuple[dict, dict]:
    """Per term and field, arrays (frames, n) of the mirror image and of the frame, mirrored."""
    params, observations = as_dtype(make_frames(camera), dtype)
    with jax.enable_x64(dtype == np.float64):
        model = make_model(dtype)
        values, gradient = values_and_gradients(model, params, observations)
        image_values, image_gradient = values_and_gradients(
            model, mirrored_params(params), mirrored_observations(observations)
        )
        # Mirroring is a signed permutation, so gradients are mirrored as parameters are.
        expected = mirrored_params(gradient)

    def table(energies, slopes) -> dict:
        rows = {"energy": np.asarray(energies)[..., None]}
        for field in FIELDS:
            array = np.asarray(getattr(slopes, field))
            rows[field] = array.reshape(*array.shape[:2], -1)
        return rows

    return table(image_values, image_gradient), table(values, expected)


@pytest.fixture(scope="module", params=[*CAMERAS, "float32"])
def images(request) -> tuple[dict, dict, float]:
    if request.param == "float32":
        return *_with_its_mirror_image("weak", np.float32), 1e-5
    return *_with_its_mirror_image(request.param, np.float64), 1e-10


@pytest.mark.parametrize("frames", [_TWO_HANDED, _ONE_HANDED], ids=["two hands", "one hand"])
@pytest.mark.parametrize("term", range(len(NAMES)), ids=NAMES)
def test_the_mirror_image_costs_and_pulls_the_same(images, term, frames):
    actual, expected, tolerance = images
    for name in expected:
        a, b = actual[name][term, frames], expected[name][term, frames]
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), name
