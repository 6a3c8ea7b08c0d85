"""The `manofit` command.

Each subcommand is a dataclass whose docstrings are its help, and whose `run` calls the library.
Heavy imports wait until a command runs, so that help and errors in usage are instant.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import tyro
from tyro.conf import Positional, UseAppendAction, arg, subcommand

from experiments.input_options import CANONICAL, RECOGNISED, InputOptions

if TYPE_CHECKING:
    from fitting.strategy import Strategy

EXIT_BAD_INPUT = 2
EXIT_FRAMES_SKIPPED = 3
EXIT_INTERRUPTED = 130
_POOL_THREADS = 4
"""With as many at least, one virtual device rounds like four, also where there are fewer cores."""
_GRACE_S = 1.0
"""How long a command may tidy up after Ctrl-C."""

# fmt: off
Target = Literal[
    "canonical", "smplx", "interhand", "ho3d",
    "obj", "ply", "glb", "glb_animated", "joints_csv", "parquet",
]
"""Formats that `--to` names: those of `fitting.exporters.EXPORTERS`."""
# fmt: on

HandsPath = Annotated[
    Path | None,
    arg(metavar="PATH", help_behavior_hint="(default: MANOFIT_HANDS, else the embedded hand)"),
]


@dataclass(frozen=True)
class Demo:
    """Refine synthetic interacting hands and show what it did."""

    frames: int = 8
    """Number of frames to make and refine."""
    out: Path = Path("demo")
    """Folder for predictions.npz, truth.npz, refined.npz, worst_frame.glb and before_after.png."""
    seed: int = 0
    """Seed of the synthetic frames."""
    strategy: str = "map"
    """A preset (`manofit strategy list` says what each is for) or a .toml file."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """Change the strategy: PATH=VALUE, for example scales.joints_3d=0.005, or PATH*=FACTOR."""
    hands: HandsPath = None
    """Folder or right-hand file of the hand model."""
    force: bool = False
    """Replace what an earlier run left in the folder."""

    def run(self) -> None:
        """Run it."""
        from experiments.demo import run_demo

        run_demo(
            frames=self.frames,
            out=self.out,
            seed=self.seed,
            strategy=_strategy(self.strategy, self.set),
            hands_path=self.hands,
            force=self.force,
        )


@dataclass(frozen=True)
class Refine:
    """Refine the predictions of a file.

    A result in .zarr may have any length: it is written chunk by chunk, memory stays the same, and
    the same command goes on where it was interrupted or killed. docs/batch.md says more.

    Compiled programs are kept in ~/.cache/manofit/jax, so that the next start takes seconds. Set
    JAX_COMPILATION_CACHE_DIR to keep them elsewhere, JAX_ENABLE_COMPILATION_CACHE=false for never.
    """

    input: Positional[Path]
    """Predictions: a canonical .npz file, or another format that --from names."""
    out: Path
    """Result: .zarr for any number of frames, .npz for as many as fit in memory."""
    reading: InputOptions = CANONICAL
    """How the input is to be read."""
    strategy: str = "map"
    """A preset (`manofit strategy list` says what each is for) or a .toml file."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """Change the strategy: PATH=VALUE, for example scales.joints_3d=0.005, or PATH*=FACTOR."""
    hands: HandsPath = None
    """Folder or right-hand file of the hand model."""
    frames: str | None = None
    """Only frames A to B-1, as A:B; either may be left out."""
    calibrate: bool = False
    """First estimate the strategy's scales from this file's frames, see `manofit calibrate`."""
    uncertainty: bool = False
    """Also write the standard deviation of every parameter and joint (`std_...`)."""
    force: bool = False
    """Replace an existing result in .npz; for .zarr there is --restart."""
    restart: bool = False
    """.zarr: begin again instead of going on with what is there."""
    save: tuple[Literal["vertices", "joints"], ...] = ()
    """.zarr: also write the refined hands' meshes (18.7 kB a frame) or joints."""
    devices: int | None = None
    """How many of the devices to use; all unless told. No result depends on it."""
    batch_size: int | None = None
    """.zarr: frames of a chunk, what at most is lost when the program is killed; chosen from the
    memory at hand unless told. No result depends on it."""
    json: bool = False
    """Print the summary as JSON, and nothing else on standard output."""
    fail_on_skipped: bool = False
    """End with exit code 3 if a frame had to be skipped."""

    def run(self) -> int:
        """Run it; returns the exit code."""
        if self.out.suffix not in (".npz", ".zarr") and not self.out.is_dir():
            from fitting.errors import InputError

            raise InputError(f"{self.out}: expected a name that ends in .npz or .zarr")
        if self.out.suffix == ".zarr":
            skipped = self._into_zarr()
        else:
            skipped = self._into_npz()
        return EXIT_FRAMES_SKIPPED if skipped and self.fail_on_skipped else 0

    def _into_zarr(self) -> int:
        from experiments.commands import open_hands
        from experiments.refine_command import check_zarr_target, refine_to_zarr
        from fitting.errors import InputError

        if self.force:
            raise InputError("--force replaces an .npz; --restart begins a .zarr again")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"--batch-size {self.batch_size}: expected at least one frame")
        frames = _frame_range(self.frames)
        check_zarr_target(self.out)
        with contextlib.redirect_stdout(sys.stderr if self.json else sys.stdout):
            hand_model = open_hands(self.hands)
        outcome = refine_to_zarr(
            self.input,
            self.out,
            strategy=_strategy(self.strategy, self.set),
            hand_model=hand_model,
            given=self.reading,
            frames=frames,
            calibrated=self.calibrate,
            devices=self.devices,
            batch_size=self.batch_size,
            save=self.save,
            uncertainty=self.uncertainty,
            restart=self.restart,
            as_json=self.json,
        )
        assert outcome.summary is not None, "an interrupted run raises"
        return outcome.summary.skipped_invalid

    def _into_npz(self) -> int:
        from experiments.commands import open_hands, refine_file
        from experiments.refine_command import local_devices
        from fitting.errors import InputError
        from fitting.outcome import SKIPPED_INVALID
        from fitting.result_summary import summarise_result

        if self.restart or self.save or self.batch_size is not None:
            raise InputError("--restart, --save and --batch-size belong to a result in .zarr")
        with contextlib.redirect_stdout(sys.stderr if self.json else sys.stdout):
            result = refine_file(
                self.input,
                self.out,
                strategy=_strategy(self.strategy, self.set),
                hand_model=open_hands(self.hands),
                given=self.reading,
                frames=_frame_range(self.frames),
                calibrated=self.calibrate,
                uncertainty=self.uncertainty,
                devices=local_devices(self.devices),
                force=self.force,
            )
        if self.json:
            print(summarise_result(result).to_json())
        return result.count(SKIPPED_INVALID)


@dataclass(frozen=True)
class Report:
    """Sum up a result: frames by status and reason, fit errors, energies, the worst frames."""

    result: Positional[Path]
    """What `manofit refine` wrote (.zarr or .npz)."""
    plot: Path | None = None
    """Draw histograms of fit errors and energies there (.png); needs the `plots` extra."""
    json: bool = False
    """Print JSON."""
    force: bool = False
    """Replace an existing picture."""

    def run(self) -> None:
        """Run it."""
        from experiments.refine_command import report

        report(self.result, plot=self.plot, as_json=self.json, force=self.force)


@dataclass(frozen=True)
class Calibrate:
    """Estimate how noisy a file's joints, keypoints and predictions are.

    The strategy's scales are estimated from a sample of the file, printed, and written with the
    rest of the strategy, to be used with `manofit refine --strategy`.
    """

    input: Positional[Path]
    """Predictions: a canonical .npz file, or another format that --from names."""
    out: Path
    """Strategy to write (.toml)."""
    reading: InputOptions = CANONICAL
    """How the input is to be read."""
    strategy: str = "map"
    """A preset or a .toml file whose scales are to be estimated."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """Change the strategy: PATH=VALUE, for example scales.joints_3d=0.005, or PATH*=FACTOR."""
    hands: HandsPath = None
    """Folder or right-hand file of the hand model."""
    sample: int = 256
    """Frames to look at, at most."""
    seed: int = 0
    """Seed of the choice of frames."""
    force: bool = False
    """Replace an existing file."""

    def run(self) -> None:
        """Run it."""
        from experiments.commands import calibrate_file

        calibrate_file(
            self.input,
            self.out,
            strategy=_strategy(self.strategy, self.set),
            hands_path=self.hands,
            given=self.reading,
            sample=self.sample,
            seed=self.seed,
            force=self.force,
        )


_SELECTING = ("truth", "captures", "cameras", "hand_type", "stride", "limit")
"""Options of `Convert` that select from InterHand2.6M."""


@dataclass(frozen=True)
class Convert:
    """Convert between a regressor's or a data set's files, our own, and those of other programs.

    Every conversion is held against the joints and pixels that the source gives itself.
    """

    input: Positional[Path]
    """File or folder."""
    out: Path
    """File or folder to write; a canonical file unless --to says otherwise."""
    reading: InputOptions = RECOGNISED
    """How the input is to be read."""
    to: Target = "canonical"
    """Format to write."""
    frames: str | None = None
    """Only frames A to B-1, as A:B; either may be left out."""
    order: str | None = None
    """joints_csv, parquet: joint order of the columns, for example openpose21."""
    fps: float | None = None
    """glb_animated: frames a second; the file's timestamps decide unless told, or 30."""
    truth: Path | None = None
    """interhand: write NeuralAnnot's hand parameters of the same frames there (.npz)."""
    captures: tuple[str, ...] = ()
    """interhand: only these captures."""
    cameras: tuple[str, ...] = ()
    """interhand: only these cameras."""
    hand_type: Literal["right", "left", "interacting"] | None = None
    """interhand: only images labelled so."""
    stride: int = 1
    """interhand: every n-th time step."""
    limit: int | None = None
    """interhand: at most so many images."""
    hands: HandsPath = None
    """Folder or right-hand file of the hand model; a truth needs the genuine one."""
    force: bool = False
    """Replace existing files."""

    def run(self) -> None:
        """Run it."""
        from experiments.convert import convert_file, convert_interhand
        from fitting.adapters import InterHandSelection

        selected = (self.captures, self.cameras, self.hand_type, self.stride, self.limit)
        chosen = InterHandSelection(*selected)
        if self.truth is None and chosen == InterHandSelection():
            convert_file(
                self.input,
                self.out,
                given=self.reading,
                to=self.to,
                frames=_frame_range(self.frames),
                hands_path=self.hands,
                order=self.order,
                fps=self.fps,
                force=self.force,
            )
            return
        elsewhere = replace(
            Convert(self.input, self.out),
            **{name: getattr(self, name) for name in (*_SELECTING, "hands", "force")},
        )
        alone = replace(self, reading=replace(self.reading, source="auto"))
        if self.reading.source not in ("interhand", "auto") or alone != elsewhere:
            from fitting.errors import InputError

            raise InputError(
                "--truth, --captures, --cameras, --hand-type, --stride and --limit select from "
                "InterHand2.6M's annotations and write canonical files, and go with --hands and "
                "--force alone: convert first, and then once more with the other options"
            )
        convert_interhand(
            self.input,
            self.out,
            truth_out=self.truth,
            selection=chosen,
            hands_path=self.hands,
            force=self.force,
        )


@dataclass(frozen=True)
class Check:
    """Say what a canonical file holds and what a fit can do with it."""

    input: Positional[Path]
    """Predictions, as `manofit convert` writes them."""
    strategy: str = "map"
    """The fit in question: a preset (see `manofit strategy list`) or a .toml file."""
    hands: HandsPath = None
    """Folder or right-hand file of the hand model."""

    def run(self) -> None:
        """Run it."""
        from experiments.commands import check_file

        check_file(self.input, strategy=_strategy(self.strategy, ()), hands_path=self.hands)


@dataclass(frozen=True)
class Evaluate:
    """Hold a result against the truth: every metric, with intervals, before and after."""

    result: Positional[Path]
    """A result, or any canonical file (.npz)."""
    truth: Path
    """The truth, a canonical file."""
    before: Path | None = None
    """The predictions that the result was made from: the table compares."""
    metrics: tuple[str, ...] = ()
    """Keys of docs/metrics.md; those that take little time unless told."""
    json: Path | None = None
    """Write the summary there too (.json)."""
    csv: Path | None = None
    """Write every frame's figures there too (.csv)."""
    hands: HandsPath = None
    """Folder or right-hand file of the hand model."""
    force: bool = False
    """Replace existing files."""

    def run(self) -> None:
        """Run it."""
        from experiments.commands import evaluate_file

        evaluate_file(
            self.result,
            self.truth,
            before=self.before,
            metrics=self.metrics,
            json_out=self.json,
            csv_out=self.csv,
            hands_path=self.hands,
            force=self.force,
        )


@dataclass(frozen=True)
class BenchmarkMake:
    """Make synthetic interactions with known truth, and a simulated regressor's predictions."""

    out: Path
    """Folder for truth.npz, predictions.npz and benchmark.json."""
    frames: int = 64
    """Number of frames."""
    seed: int = 0
    """Seed of everything; a frame is the same whatever the number of frames."""
    error_scale: float = 1.0
    """Factor of the regressor's errors of pose, orientation and shape."""
    place_scale: float = 1.0
    """Factor of its error of where the hands are to each other."""
    camera_error: float = 0.02
    """Standard deviation of its camera's log scale."""
    joint_noise_mm: float = 5.0
    """Standard deviation of the 3D joints along each axis."""
    keypoint_noise_px: float = 2.0
    """Standard deviation of the 2D keypoints along each axis, pixels of a 224 px crop."""
    missing: float = 0.05
    """Share of joints that are not found."""
    outliers: float = 0.0
    """Share of joints that are mistaken for another one."""
    hands: HandsPath = None
    """Folder or right-hand file of the hand model."""
    force: bool = False
    """Replace existing files."""

    def run(self) -> None:
        """Run it."""
        from experiments.benchmark import DetectorNoise, RegressorErrors
        from experiments.commands import benchmark_make

        benchmark_make(
            self.out,
            frames=self.frames,
            seed=self.seed,
            regressor=RegressorErrors(self.error_scale, self.place_scale, self.camera_error),
            detector=DetectorNoise(
                self.joint_noise_mm, self.keypoint_noise_px, self.missing, self.outliers
            ),
            hands_path=self.hands,
            force=self.force,
        )


@dataclass(frozen=True)
class BenchmarkSheet:
    """Draw a benchmark's first frames, a row for each type of contact."""

    folder: Positional[Path]
    """What `manofit benchmark make` wrote."""
    out: Path
    """Picture to write (.png)."""
    which: Literal["truth", "predictions"] = "truth"
    """What to draw."""
    frames: int = 24
    """How many frames."""
    hands: HandsPath = None
    """Folder or right-hand file of the hand model."""
    force: bool = False
    """Replace an existing picture."""

    def run(self) -> None:
        """Run it."""
        from experiments.commands import benchmark_sheet

        benchmark_sheet(
            self.folder,
            self.out,
            which=self.which,
            frames=self.frames,
            hands_path=self.hands,
            force=self.force,
        )


@dataclass(frozen=True)
class Ablate:
    """Compare settings: what every term, weight, stage or solver buys.

    The same command goes on where it was interrupted.
    """

    spec: Positional[Path]
    """What to compare (.toml): docs/ablation.md says how it is written."""
    out: Path
    """Folder for results.jsonl, tables, pictures and report.html."""
    hands: HandsPath = None
    """Folder or right-hand file of the hand model."""
    no_pictures: bool = False
    """Draw none; they need the `plots` extra."""

    def run(self) -> None:
        """Run it."""
        from experiments.commands import ablate

        ablate(self.spec, self.out, hands_path=self.hands, pictures=not self.no_pictures)


@dataclass(frozen=True)
class Tune:
    """Improve a strategy's numbers for your own data, by CMA-ES.

    Part of the frames is held out, and says whether anything was gained. Needs the `tune` extra.
    The same command goes on where it was interrupted.
    """

    predictions: Positional[Path]
    """Canonical file that fits start from."""
    truth: Path
    """Canonical file of the same frames that is right."""
    out: Path
    """Strategy to write (.toml); its evaluations (.jsonl) and figures (.json) lie beside it."""
    strategy: str = "map"
    """Where the search begins: a preset or a .toml file."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """Change it: PATH=VALUE, for example scales.joints_3d=0.005."""
    number: UseAppendAction[tuple[str, ...]] = ()
    """Path of a number that may change; all scales and weights that act unless given."""
    minimise: str = "i_mpjpe"
    """Metric whose mean over frames is to improve; `manofit evaluate --help` lists them."""
    limit: UseAppendAction[tuple[str, ...]] = ()
    """METRIC=GREATEST: mean of another metric that may not be passed. Where frames have both hands
    and nothing is said, ave_p=0.01."""
    against: tuple[str, ...] = ("ihmr", "map")
    """Strategies that the tuned one is held against, besides the one it begins as."""
    evaluations: int = 200
    """Candidates to try."""
    held_out: float = 0.5
    """Share of the frames, or of the videos where they have a sequence_id, not tuned on."""
    seed: int = 0
    """Of the split and of the search."""
    hands: HandsPath = None
    """Folder or right-hand file of the hand model."""
    force: bool = False
    """Replace an existing strategy."""

    def run(self) -> None:
        """Run it."""
        from experiments.commands import tune_file

        tune_file(
            self.predictions,
            self.truth,
            self.out,
            strategy=_strategy(self.strategy, self.set),
            numbers=self.number,
            minimise=self.minimise,
            limits=self.limit,
            against=self.against,
            evaluations=self.evaluations,
            held_out=self.held_out,
            seed=self.seed,
            hands_path=self.hands,
            force=self.force,
        )


@dataclass(frozen=True)
class BenchmarkCommand:
    """Synthetic data with known truth."""

    action: (
        Annotated[BenchmarkMake, subcommand("make")]
        | Annotated[BenchmarkSheet, subcommand("sheet")]
    )

    def run(self) -> None:
        """Run it."""
        self.action.run()


@dataclass(frozen=True)
class Overlay:
    """Draw the hands of one frame over its image, through the frame's camera."""

    input: Positional[Path]
    """Predictions or a result (.npz)."""
    image: Path
    """The frame's picture; with a weak camera, the crop it refers to."""
    out: Path
    """Picture to write (.png)."""
    frame: int = 0
    """Number of the frame."""
    view: int = 0
    """Number of the view, for several cameras."""
    crop: Annotated[tuple[float, float, float, float] | None, arg(metavar="X Y WIDTH HEIGHT")] = (
        None
    )
    """Pixels of the picture that a weak camera refers to; the whole picture unless told."""
    opacity: float = 0.75
    """Of the hands, 0 to 1."""
    hands: HandsPath = None
    """Folder or right-hand file of the hand model."""
    force: bool = False
    """Replace an existing picture."""

    def run(self) -> None:
        """Run it."""
        from experiments.commands import overlay_file

        overlay_file(
            self.input,
            self.image,
            self.out,
            frame=self.frame,
            view=self.view,
            crop=self.crop,
            opacity=self.opacity,
            hands_path=self.hands,
            force=self.force,
        )


@dataclass(frozen=True)
class StrategyList:
    """List the presets."""

    def run(self) -> None:
        """Run it."""
        from fitting.strategy import load_strategy, preset_names

        for name in preset_names():
            print(f"{name:14s} {load_strategy(name).description}")


@dataclass(frozen=True)
class StrategyShow:
    """Print a strategy as TOML, to be saved, edited and given to --strategy."""

    name: Positional[str]
    """A preset or a .toml file."""
    set: UseAppendAction[tuple[str, ...]] = ()
    """Change it: STAGE.field=value, for example finger_pose.weights.collision=2."""

    def run(self) -> None:
        """Run it."""
        from fitting.strategy import strategy_to_toml

        print(strategy_to_toml(_strategy(self.name, self.set)), end="")


@dataclass(frozen=True)
class StrategyCommand:
    """Show how frames are refined."""

    action: (
        Annotated[StrategyList, subcommand("list")] | Annotated[StrategyShow, subcommand("show")]
    )

    def run(self) -> None:
        """Run it."""
        self.action.run()


@dataclass(frozen=True)
class HandsInfo:
    """Say which hand model is in use, where it comes from and what state it was in."""

    hands: HandsPath = None
    """Folder or right-hand file of the hand model."""

    def run(self) -> None:
        """Run it."""
        from experiments.commands import hands_info

        hands_info(self.hands)


@dataclass(frozen=True)
class HandsExport:
    """Write the hand model as MANO_RIGHT/MANO_LEFT, .pkl (official layout) and .npz."""

    out: Path
    """Folder to write to."""
    hands: HandsPath = None
    """Folder or right-hand file of the hand model."""
    force: bool = False
    """Replace existing files."""

    def run(self) -> None:
        """Run it."""
        from experiments.commands import hands_export

        hands_export(self.out, hands_path=self.hands, force=self.force)


@dataclass(frozen=True)
class HandsCommand:
    """Look at the hand model, or export it."""

    action: Annotated[HandsInfo, subcommand("info")] | Annotated[HandsExport, subcommand("export")]

    def run(self) -> None:
        """Run it."""
        self.action.run()


Command = (
    Annotated[Demo, subcommand("demo")]
    | Annotated[Refine, subcommand("refine")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Calibrate, subcommand("calibrate")]
    | Annotated[Convert, subcommand("convert")]
    | Annotated[Check, subcommand("check")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[BenchmarkCommand, subcommand("benchmark")]
    | Annotated[Ablate, subcommand("ablate")]
    | Annotated[Tune, subcommand("tune")]
    | Annotated[Overlay, subcommand("overlay")]
    | Annotated[StrategyCommand, subcommand("strategy")]
    | Annotated[HandsCommand, subcommand("hands")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--version" in arguments:
        print(f"manofit {metadata.version('manofit')}")
        return 0
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    command = tyro.cli(
        Command,
        prog="manofit",
        description="Refine two interacting MANO hands. Add --debug for tracebacks; --version.",
        args=arguments,
        config=(
            tyro.conf.OmitSubcommandPrefixes,
            tyro.conf.OmitArgPrefixes,
            tyro.conf.FlagCreatePairsOff,
        ),
    )
    try:
        code = command.run()
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        if not _is_users(error):
            raise
        if debug:
            traceback.print_exc()
        print(f"manofit: {_sentence(error)}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return code or 0


def run() -> NoReturn:
    """The process's entry point: `main`, and the end of the process."""
    signal.signal(signal.SIGINT, _interrupt)
    _round_alike_on_virtual_devices()
    _keep_compiled_programs()
    try:
        code = main()
    except KeyboardInterrupt:
        code = _interrupted()
    if code == EXIT_INTERRUPTED:
        # XLA's threads may still compute, and crash in the interpreter's orderly shutdown.
        _leave()
    sys.exit(code)


def _round_alike_on_virtual_devices() -> None:
    """Let a processor that is to be several devices give the same bits however many they are.

    XLA's pool has a thread for each core or each device, whichever are more, and the last bit of
    some sums depends on its size. NPROC is the least. To be said before JAX is imported.
    """
    if (
        "JAX_NUM_CPU_DEVICES" in os.environ
        or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    ):
        os.environ.setdefault("NPROC", str(max(os.cpu_count() or 1, _POOL_THREADS)))


def _keep_compiled_programs() -> None:
    """Let JAX keep what it compiles in the user's cache folder, unless the user named another.

    A second run then starts to compute in seconds. To be said before JAX is imported.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "manofit" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def _interrupt(*_: object) -> NoReturn:
    """Handle Ctrl-C: raise it, and leave soon even if it is not heard.

    An exception raised in a callback, such as JAX's of the garbage collector, is dropped, and
    while XLA computes nothing is raised at all.
    """
    # What Python would say of a dropped one.
    sys.unraisablehook = lambda _: None
    timer = threading.Timer(_GRACE_S, lambda: (_interrupted(), _leave()))
    timer.daemon = True
    timer.start()
    # A second Ctrl-C would interrupt the tidying up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _leave() -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(EXIT_INTERRUPTED)


def _interrupted() -> int:
    print("manofit: interrupted", file=sys.stderr)
    return EXIT_INTERRUPTED


def _is_users(error: Exception) -> bool:
    """Whether an error is the user's to mend, and no fault of the program."""
    from mano_jax.errors import UserError

    return isinstance(error, UserError | OSError)


def _sentence(error: Exception) -> str:
    """What an error says; what the operating system says, without its number."""
    if isinstance(error, OSError) and error.strerror:
        reason = error.strerror[0].lower() + error.strerror[1:]
        file = error.filename2 or error.filename
        return reason if file is None else f"{os.fsdecode(file)}: {reason}"
    return str(error)


def _strategy(name: str, settings: tuple[str, ...]) -> "Strategy":
    from fitting.strategy import load_strategy, override

    return override(load_strategy(name), settings)


def _frame_range(text: str | None) -> slice:
    from fitting.errors import InputError

    if text is None:
        return slice(None)
    first, colon, last = text.partition(":")
    try:
        bounds = [int(part) if part else None for part in (first, last)]
    except ValueError:
        bounds = None
    if not colon or bounds is None or any(b is not None and b < 0 for b in bounds):
        raise InputError(f"--frames {text}: expected A:B, such as 0:100, 100: or :100")
    return slice(*bounds)


if __name__ == "__main__":
    run()
