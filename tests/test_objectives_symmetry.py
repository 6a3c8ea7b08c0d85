"""A frame and its mirror image cost the same, and pull the same way."""

from functools import cache

import jax
import numpy as np
import pytest

from tests.objective_cases import (
    CASES,
    FIELDS,
    NAMES,
    as_dtype,
    make_frames,
    make_model,
    mirrored_observations,
    mirrored_params,
    names,
    values_and_gradients,
)

_ONE_HANDED = [2, 3]
_TWO_HANDED = [0, 1, 4]


@cache
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


@pytest.mark.parametrize("frames", [_TWO_HANDED, _ONE_HANDED], ids=["two hands", "one hand"])
@pytest.mark.parametrize(
    ("camera", "term", "dtype", "tolerance"),
    [(camera, term, np.float64, 1e-10) for camera, term in CASES]
    + [("weak", term, np.float32, 1e-5) for term in NAMES],
)
def test_the_mirror_image_costs_and_pulls_the_same(camera, term, dtype, tolerance, frames):
    actual, expected = _with_its_mirror_image(camera, dtype)
    i = names(make_frames(camera)[1]).index(term)
    for name in expected:
        a, b = actual[name][i, frames], expected[name][i, frames]
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max(), name
