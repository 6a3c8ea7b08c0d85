"""Strict numerics, two CPU devices, and hands that are made once."""

import gc
import os
from pathlib import Path

# Before JAX starts: several devices are tested on two virtual ones of the one processor.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)

import jax
import pytest

from mano_jax.model import HandModel, Hands, mirrored, two_hands
from mano_jax.procedural import embedded_hand_model

jax.config.update("jax_numpy_dtype_promotion", "strict")

RECORDINGS = Path(__file__).parents[2] / "shared" / "data"
"""Real hands, kept beside the checkout: their licences are their own."""

needs_recordings = pytest.mark.skipif(
    not RECORDINGS.is_dir(), reason=f"no recordings of real hands in {RECORDINGS}"
)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Share compiled programs between the tests of one run, in all its processes."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    cache = str(folder / "jax_cache")
    # The variable is for the commands that tests start.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


@pytest.fixture(scope="session", autouse=True)
def one_device():
    """Run on the first device unless told: programs are compiled for each of them anew."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Let go of a module's compiled programs: a process has room for so many.

    On a CPU every program maps some dozens of memory regions. Linux allows a process 65,530
    of them; beyond, JAX dies of a segmentation fault wherever it asks for memory next.
    """
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def right_model() -> HandModel:
    return embedded_hand_model()


@pytest.fixture(scope="session")
def left_model(right_model) -> HandModel:
    return mirrored(right_model)


@pytest.fixture(scope="session")
def hands(right_model, left_model) -> Hands:
    return two_hands(right_model, left_model)
