"""Streams: the same bits whatever the chunks, whatever is killed, whatever is broken."""

import threading
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.batch_trial import break_frames
from experiments.benchmark import make_interactions
from fitting import batch, driver
from fitting.background import in_background
from fitting.batch import Progress, automatic_batch_size, refine_to_store
from fitting.canonical import read_arrays
from fitting.driver import refine_stream
from fitting.errors import InputError
from fitting.fit_errors import FIT_ERRORS
from fitting.outcome import SKIPPED_INVALID
from fitting.refine import Refiner, refine
from fitting.result_summary import ResultSummary, summarise_chunks, summarise_result
from fitting.sources import memory_source, open_source
from fitting.strategy import Stage, Strategy
from fitting.tiles import tiles_at_once
from mano_jax.model import pose_hands
from objectives.total import TERMS

FRAMES = 41


@pytest.fixture(scope="module")
def strategy():
    """Ten steps towards the joints, without contacts: a second for forty frames."""
    return Strategy(
        name="joints",
        description="",
        stages=(
            Stage(
                name="all",
                step_sizes={"orientation": 1e-2, "finger_pose": 1e-2, "translation": 1e-3},
                weights={"joints_3d": 1000.0, "relative_translation": 1000.0},
                iterations=11,
            ),
        ),
        report_weights={"joints_3d": 1000.0, "relative_translation": 1000.0},
    )


@pytest.fixture(scope="module")
def predictions(hands):
    _, made = make_interactions(hands, frames=4, seed=8)
    many = made.frames(np.arange(FRAMES) % 4)
    noise = np.random.default_rng(0).normal(0, 0.05, (FRAMES, 2, 15, 3))
    return replace(
        many,
        hand_pose=(np.asarray(many.hand_pose) + noise).astype(np.float32),
        frame_id=np.array([f"frame {i}" for i in range(FRAMES)]),
    )


@pytest.fixture(scope="module")
def whole(hands, predictions, strategy):
    """All frames at once."""
    return refine(hands, predictions, strategy).arrays_by_frame()


@pytest.fixture
def run(hands, strategy):
    """Refine a source into a result."""

    def refined(source, out, **options):
        options = {"hand_model": "hand", "batch_size": 8} | options
        return refine_to_store(hands, source, out, options.pop("strategy", strategy), **options)

    return refined


@pytest.fixture
def source(predictions):
    return memory_source(predictions, "input.npz")


def same(found, expected, frames: Any = slice(None)):
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name][frames], values[frames], err_msg=name)


def test_a_thread_makes_the_same_items_in_order_and_its_error_arrives():
    assert list(in_background(iter(range(50)), ahead=3)) == list(range(50))

    def broken():
        yield 1
        raise ValueError("here")

    items = in_background(broken())
    assert next(items) == 1
    with pytest.raises(ValueError, match="here"):
        next(items)


def test_a_stream_that_is_left_ends_its_threads():
    before = threading.active_count()
    items: Any = in_background(iter(range(1000)))
    next(items)
    assert threading.active_count() == before + 1
    items.close()
    assert threading.active_count() == before


def test_streams_give_the_same_bits_whatever_the_chunks(hands, predictions, strategy, whole):
    cuts = [0, 1, 9, 30, FRAMES]
    chunks = (predictions.frames(slice(*pair)) for pair in zip(cuts, cuts[1:], strict=False))
    parts = [result.arrays_by_frame() for result in refine_stream(hands, chunks, strategy)]
    assert [len(part["status"]) for part in parts] == [1, 8, 21, 11]
    same({name: np.concatenate([p[name] for p in parts]) for name in whole}, whole)


def test_streams_take_and_give_jax_arrays(hands, predictions, strategy, whole):
    arrays = predictions.frames(slice(0, 8)).arrays()
    numbers = {n: jnp.asarray(x) for n, x in arrays.items() if n != "frame_id"}
    (result,) = refine_stream(hands, [numbers], strategy)
    given = result.jax_arrays()
    assert all(isinstance(x, jax.Array) for x in given.values()) and "reason" not in given
    np.testing.assert_array_equal(given["hand_pose"], whole["hand_pose"][:8])


def test_chunks_of_a_stream_have_the_same_names(hands, predictions, strategy):
    other = replace(predictions, frame_id=None).frames(slice(0, 3))
    stream = refine_stream(hands, [predictions.frames(slice(0, 3)), other], strategy)
    next(stream)
    with pytest.raises(InputError, match="chunk 1: expected .*frame_id"):
        next(stream)
    assert list(refine_stream(hands, [], strategy)) == []


@pytest.mark.parametrize(("size", "devices"), [(1, 1), (16, 2), (24, 1), (64, 2)])
def test_results_are_the_same_whatever_the_batch(run, source, whole, tmp_path, size, devices):
    out = tmp_path / "r.zarr"
    outcome = run(source, out, batch_size=size, devices=jax.devices()[:devices])
    assert outcome.summary.frames == FRAMES and outcome.done == outcome.chunks
    same(read_arrays(out), whole)


def test_what_was_stopped_goes_on(run, source, whole, tmp_path):
    """After one chunk, then after another; what is done is not done again."""
    out, fitted = tmp_path / "r.zarr", []
    for expected in (1, 2, 6):
        progress = Progress()

        def shown(done, new, total, expected=expected, progress=progress):
            if new and expected < 6:
                progress.stop.set()

        progress.frames = shown
        outcome = run(source, out, progress=progress)
        fitted.append(outcome.time_taken.frames)
        assert (outcome.summary is None) == (outcome.done < 6)
        assert outcome.done >= expected
    assert sum(fitted) == FRAMES
    same(read_arrays(out), whole)
    # Nothing is left to be done.
    assert run(source, out).time_taken.frames == 0


def test_an_error_in_the_middle_keeps_what_is_done(run, source, whole, tmp_path, monkeypatch):
    out, refined = tmp_path / "r.zarr", Refiner.fit
    calls = []

    def dies(self, prepared, **options):
        calls.append(prepared)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return refined(self, prepared, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Refiner, "fit", dies)
        with pytest.raises(KeyboardInterrupt):
            run(source, out)
    outcome = run(source, out)
    assert 0 < outcome.time_taken.frames < FRAMES
    same(read_arrays(out), whole)


def test_a_smaller_batch_goes_on_in_the_same_chunks(run, source, whole, tmp_path):
    progress = Progress()
    progress.frames = lambda done, new, total: progress.stop.set() if new else None
    out = tmp_path / "r.zarr"
    run(source, out, batch_size=24, progress=progress)
    assert run(source, out, batch_size=8).chunks == 2
    same(read_arrays(out), whole)


def test_other_frames_or_settings_are_refused(
    run, source, predictions, strategy, tmp_path, monkeypatch
):
    out = tmp_path / "r.zarr"
    run(source, out)
    moved = replace(predictions, betas=np.float32(0.1) + predictions.betas)
    with pytest.raises(InputError, match=r"input \(then"):
        run(memory_source(moved, "input.npz"), out)
    with pytest.raises(InputError, match=r"frames \(then 41, now 5\)"):
        run(memory_source(predictions, "input.npz", frames=slice(0, 5)), out)
    other = replace(strategy, report_weights={"joints_3d": 7.0})
    with pytest.raises(InputError, match=r"\+joints_3d = 7\.0"):
        run(source, out, strategy=other)
    with pytest.raises(InputError, match=r"hands \(then hand, now glove\)"):
        run(source, out, hand_model="glove")
    # A version whose results have other columns.
    with monkeypatch.context() as other_version:
        other_version.setattr(batch, "FIT_ERRORS", {"joints_3d_mm": ""})
        with pytest.raises(InputError, match=r"columns \(then"):
            run(source, out)
    assert run(source, out, hand_model="glove", restart=True).time_taken.frames == FRAMES


def broken(predictions):
    """Frames 3, 6, ... each broken in another way, and the words of its reason."""
    return break_frames(predictions, range(3, 27, 3))


def test_broken_frames_are_skipped_and_disturb_nothing(run, predictions, whole, tmp_path):
    bad, words = broken(predictions)
    out = tmp_path / "r.zarr"
    summary = run(memory_source(bad, "input.npz"), out).summary
    found = read_arrays(out)
    skipped = np.flatnonzero(found["status"] == SKIPPED_INVALID)
    np.testing.assert_array_equal(skipped, list(words))
    assert all(part in found["reason"][frame] for frame, part in words.items())
    same(found, whole, np.setdiff1d(np.arange(FRAMES), skipped))
    for name in ("global_orient", "hand_pose", "betas", "relative_transl"):
        np.testing.assert_array_equal(found[name][skipped], bad.arrays()[name][skipped])
    assert summary.skipped_invalid == 8 and sum(summary.skipped_reasons.values()) == 8
    assert summary.refined + summary.kept_input == FRAMES - 8


def test_frames_that_cannot_be_read_are_skipped(run, predictions, whole, tmp_path):
    from tests.test_sources import write_zarr

    path = tmp_path / "input.zarr"
    write_zarr(path, predictions.arrays())
    (path / "betas" / "c" / "2" / "0" / "0").write_bytes(b"no such compression")
    summary = run(open_source(path), tmp_path / "r.zarr").summary
    assert summary.skipped_invalid == 5
    (reason,) = summary.skipped_reasons
    assert "betas cannot be read" in reason
    same(read_arrays(tmp_path / "r.zarr"), whole, np.r_[0:10, 15:FRAMES])


def test_out_of_memory_halves_the_batch(run, source, whole, tmp_path, monkeypatch):
    notes, refined = [], Refiner.fit

    def small(self, prepared, **options):
        if len(prepared.params.betas) > 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return refined(self, prepared, **options)

    monkeypatch.setattr(Refiner, "fit", small)
    progress = Progress(notify=notes.append)
    run(source, tmp_path / "r.zarr", batch_size=32, progress=progress)
    assert [("16" in n, "8" in n) for n in notes] == [(True, False), (True, True)]
    same(read_arrays(tmp_path / "r.zarr"), whole)

    def none(self, prepared, **options):
        raise MemoryError("no")

    monkeypatch.setattr(Refiner, "fit", none)
    with pytest.raises(InputError, match="too small for a tile of 8 frames"):
        run(source, tmp_path / "s.zarr", batch_size=32)


def test_another_error_of_the_devices_is_no_lack_of_memory(run, source, tmp_path, monkeypatch):
    def fails(self, prepared, **options):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(Refiner, "fit", fails)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        run(source, tmp_path / "r.zarr")


def test_a_full_disk_is_one_clear_error(run, source, whole, tmp_path, monkeypatch):
    write, out = batch.ResultStore.write_chunk, tmp_path / "r.zarr"

    def full(self, number, arrays):
        if number == 2:
            raise OSError(28, "No space left on device", "some/file")
        write(self, number, arrays)

    with monkeypatch.context() as patched:
        patched.setattr(batch.ResultStore, "write_chunk", full)
        with pytest.raises(InputError, match="no space left on device; 2 of 6 chunks are done"):
            run(source, out)
    run(source, out)
    same(read_arrays(out), whole)


def test_meshes_are_where_transl_puts_them(run, hands, source, tmp_path):
    out = tmp_path / "r.zarr"
    run(source, out, save=("vertices", "joints"))
    found = read_arrays(out)
    posed = jax.jit(pose_hands)(
        hands,
        **{n: jnp.asarray(found[n]) for n in ("global_orient", "hand_pose", "betas", "transl")},
    )
    np.testing.assert_allclose(found["vertices"], posed.vertices, atol=1e-5)
    np.testing.assert_allclose(found["joints"], posed.joints, atol=1e-5)
    # A result is an input again, and its mesh is no target.
    assert "vertices" not in open_source(out).columns


def test_scales_are_estimated_once(run, source, strategy, tmp_path):
    calls = []

    def calibrated():
        calls.append(1)
        return replace(strategy, name="calibrated")

    progress = Progress()
    progress.frames = lambda done, new, total: progress.stop.set() if new else None
    out = tmp_path / "r.zarr"
    run(source, out, calibrated=calibrated, progress=progress)
    run(source, out, calibrated=calibrated)
    assert len(calls) == 1
    assert "calibrated" in str(read_arrays(out)["strategy"])
    with pytest.raises(InputError, match="calibrated"):
        run(source, out)


def test_a_summary_accounts_for_every_frame(hands, predictions, strategy):
    result = refine(hands, broken(predictions)[0], strategy)
    summary = summarise_result(result)
    assert summary.frames == summary.refined + summary.kept_input + summary.skipped_invalid
    assert len(summary.worst) == 10
    used = result.status != SKIPPED_INVALID
    after = result.energy_after[used].sum(1)
    assert summary.worst[0].energy_after == pytest.approx(after.max())
    assert summary.energy_after["total"] == pytest.approx(after.mean(), rel=1e-6)
    # Nothing to measure, such as pixels without K, has no row; the strategy has no collisions.
    assert set(summary.fit_error_after) == {"keypoints_2d_crop", "joints_3d_mm"}
    errors = result.fit_error_before[used, list(FIT_ERRORS).index("joints_3d_mm")]
    assert summary.fit_error_before["joints_3d_mm"] == pytest.approx(errors.mean(), rel=1e-5)
    assert summary.fit_error_after["joints_3d_mm"] < errors.mean()
    assert "joints_3d_mm" in str(summary)
    cut = [
        {name: values[part] for name, values in result.arrays_by_frame().items()}
        for part in (slice(0, 7), slice(7, None))
    ]
    again = summarise_chunks(cut, frames=FRAMES, terms=strategy.reported)
    assert again.fit_error_after == pytest.approx(summary.fit_error_after)
    assert again.worst == summary.worst and again.skipped_reasons == summary.skipped_reasons
    with pytest.raises(AssertionError, match="accounted for"):
        summarise_chunks(cut, frames=FRAMES + 1, terms=strategy.reported)
    assert isinstance(summary, ResultSummary) and "TERMS" not in str(summary) and TERMS


def test_batches_follow_from_memory(source, monkeypatch):
    devices = jax.devices()[:1]
    assert automatic_batch_size(source, devices) == 4 * 8 * tiles_at_once(devices)
    monkeypatch.setattr(batch, "_free_memory", lambda: 4 * 16 * source.frame_bytes * 21)
    assert automatic_batch_size(source, devices) == 16
    monkeypatch.setattr(batch, "_free_memory", lambda: 0)
    assert automatic_batch_size(source, devices) == 8


def test_the_driver_holds_a_few_chunks(hands, predictions, strategy):
    """Reading stays a bounded number of chunks ahead of the caller."""
    read, used = [], 0

    def chunks():
        for number in range(12):
            read.append(number)
            yield predictions.frames(slice(0, 8))

    for _ in driver.refine_stream(hands, chunks(), strategy):
        used += 1
        assert len(read) - used <= 5
    assert used == 12
