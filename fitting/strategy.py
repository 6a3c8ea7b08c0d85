"""Strategies: a fit described as data.

A strategy is a list of stages. A stage names the parameter groups it frees with their step
sizes, the weight of each objective, and the rule by which its best iterate is chosen. Strategies
are read from and written to TOML, so an ablation is a file; numbers in them are traced, so a
sweep over weights or step sizes compiles once.
"""

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Literal

import jax.numpy as jnp
import tomli_w

from fitting.errors import InputError
from fitting.parameters import PARAMETER_GROUPS
from fitting.toml_tables import check_names, from_table
from objectives.collision import CollisionEngine
from objectives.collision_terms import COLLISION_TERMS
from objectives.joint_limits import AngleFrame
from objectives.likelihoods import SCALE_UNITS, Scales
from objectives.robust import Kernel
from objectives.total import SCALED_ONLY, TERMS, Objective

DEFAULT_KNEE: Final = 3.0
"""Scales beyond which a robust kernel doubts a residual, unless the strategy says otherwise."""


class StrategyError(InputError):
    """A strategy that says something it should not."""


@dataclass(frozen=True)
class Acceptance:
    """Which iterate of a stage is kept, frame by frame.

    The start and every `every`-th iterate are judged, their collision search fresh. An iterate
    qualifies if none of the terms in `max_ratio` exceeds that multiple of its value at the
    stage's start; the start always qualifies. Of those that qualify the lowest `select_by` wins.
    """

    select_by: tuple[str, ...] = ("joints_3d", "keypoints_2d", "vertices")
    """Terms to choose by: the first that the frame has targets for, else the weighted energy."""
    max_ratio: dict[str, float] = field(
        default_factory=lambda: {"joints_3d": 1.001, "collision": 0.901}
    )
    """Greatest allowed multiple of a term's value at the stage's start."""
    every: int = 10
    """Steps from one judged iterate to the next; the collision search is as old at most."""


@dataclass(frozen=True)
class Stage:
    """One stage of a strategy."""

    name: str
    """What `--set NAME.field=value` calls it."""
    step_sizes: dict[str, float]
    """Parameter groups that the stage frees; the others stay as they are. With `adam` the step
    size, with `lm` the greatest step of any coordinate (radians, betas, metres)."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight of each objective's mean-reduced energy; one that is not named has none."""
    likelihoods: tuple[str, ...] = ()
    """Terms that act by the strategy's `scales` instead."""
    anneal: dict[str, float] = field(default_factory=dict)
    """Terms whose scale starts this many times as large and falls to its value by equal ratios
    from iteration to iteration; with `lm` only."""
    solver: Literal["adam", "lm"] = "adam"
    """How it is minimised: first order, or damped Gauss-Newton."""
    iterations: int = 301
    """With `adam` the iterates, the start included; a multiple of `acceptance.every` plus one, so
    that the last one is judged too. With `lm` the steps, of which each is judged."""
    acceptance: Acceptance = field(default_factory=Acceptance)
    """Which iterate is kept."""
    restart_offset: float = 0.0
    """Metres; with more than 0 the stage is a repair, for frames alone whose hands are still deeper
    than `STUCK_MM` in each other. It begins with the left hand this far off along each axis of the
    camera, both ways, and what it comes to is kept where THE energy is lower."""


@dataclass(frozen=True)
class Strategy:
    """How frames are refined, from start to finish."""

    name: str
    """Name of the preset or file."""
    description: str
    """What it is for, in a sentence."""
    stages: tuple[Stage, ...]
    """In the order they run; each starts from the best iterate of the one before."""
    report_weights: dict[str, float] = field(default_factory=dict)
    """Weights of THE energy: what is reported before and after, and may not rise in any frame."""
    report_likelihoods: tuple[str, ...] = ()
    """Terms that are in THE energy by their scales."""
    scales: dict[str, float] = field(default_factory=dict)
    """How large the residuals of the terms that act as likelihoods usually are, each in its own
    unit: `objectives.likelihoods.SCALE_UNITS`."""
    kernels: dict[str, Kernel] = field(default_factory=dict)
    """Robust kernel of a term that acts as a likelihood; `squared` unless named."""
    knees: dict[str, float] = field(default_factory=dict)
    """How many scales off a residual is when its kernel begins to doubt it; 3 unless named."""
    angle_frame: AngleFrame = "bone_aligned"
    """In which frame the angle-range prior reads the finger joints."""
    collision_engine: CollisionEngine = "culled"
    """How collisions are searched inside the solver; what is reported is always exact."""

    def __post_init__(self):
        """Check every name and number.

        Raises:
            StrategyError: what is wrong and what would be right.
        """
        _validate(self)

    @property
    def repairs(self) -> tuple[Stage, ...]:
        """The stages at the end that begin anew, for frames that are stuck."""
        return tuple(stage for stage in self.stages if stage.restart_offset > 0)

    @property
    def weighed(self) -> tuple[str, ...]:
        """Terms that any stage weighs, in the order of `TERMS`."""
        used = {term for stage in self.stages for term in stage.weights}
        return tuple(term for term in TERMS if term in used)

    @property
    def terms(self) -> tuple[str, ...]:
        """Terms that act in any stage, by weight or by scale, in the order of `TERMS`."""
        scaled = {term for stage in self.stages for term in stage.likelihoods}
        return tuple(term for term in TERMS if term in scaled.union(self.weighed))

    @property
    def reported(self) -> tuple[str, ...]:
        """Terms of THE energy, in the order of `TERMS`."""
        named = {*self.report_weights, *self.report_likelihoods}
        return tuple(term for term in TERMS if term in named)

    def objective(self, weights: Mapping[str, float], likelihoods: Iterable[str]) -> Objective:
        """These terms with the strategy's scales, ready for `objective_energies`."""
        scaled = [term for term in TERMS if term in set(likelihoods)]
        return Objective(
            weights={term: jnp.float32(weight) for term, weight in weights.items()},
            scales=Scales(
                scale={term: jnp.float32(self.scales[term]) for term in scaled},
                knee={term: jnp.float32(self.knees.get(term, DEFAULT_KNEE)) for term in scaled},
            ),
            kernels=tuple((term, self.kernels.get(term, "squared")) for term in scaled),
        )


_DEPTH_TERMS: Final = tuple(term for term in COLLISION_TERMS if term != "contact")
"""Terms that cost the more the deeper the hands are in each other."""

STUCK_MM: Final = 0.5
"""A frame with a vertex deeper, mm, in the other hand is one that contacts could not free."""


def preset_names() -> list[str]:
    """Names of the strategies that ship with the program."""
    folder = resources.files("fitting") / "presets"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith("toml"))


def load_strategy(name_or_path: str | Path) -> Strategy:
    """A preset by its name, or a strategy file (anything that ends in `.toml`).

    Raises:
        StrategyError: no such preset or file, or a file that is no strategy.
    """
    if str(name_or_path).endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise StrategyError(f"no strategy file {path}")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise StrategyError(f"{path}: expected UTF-8 text: {error.reason}") from error
        return strategy_from_toml(text, origin=str(path))
    if name_or_path not in preset_names():
        raise StrategyError(
            f"unknown strategy {str(name_or_path)!r}: expected {_listed(preset_names())} "
            "or the path of a .toml file"
        )
    preset = resources.files("fitting") / "presets" / f"{name_or_path}.toml"
    return strategy_from_toml(preset.read_text(encoding="utf-8"), origin=str(name_or_path))


def strategy_from_toml(text: str, *, origin: str = "strategy") -> Strategy:
    """Parse a strategy; `origin` names it in errors.

    Raises:
        StrategyError: not TOML, a missing or unknown key, a value of the wrong type.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise StrategyError(f"{origin}: not valid TOML: {error}") from error
    return from_table(Strategy, data, origin, StrategyError)


def strategy_to_toml(strategy: Strategy) -> str:
    """The strategy as TOML; reading it gives an equal strategy."""
    return tomli_w.dumps(dataclasses.asdict(strategy))


def override(strategy: Strategy, settings: Iterable[str]) -> Strategy:
    """Apply `path=value` settings, such as `finger_pose.weights.collision=2`.

    A path starts with a stage's name, with `stages` for all of them, or with a field of the
    strategy; values are TOML, bare words strings. `path*=factor` multiplies the number that is
    there, in every stage that has it.

    Raises:
        StrategyError: a path that leads nowhere; the message lists what is there.
    """
    data = dataclasses.asdict(strategy)
    stages = {stage["name"]: stage for stage in data["stages"]}
    for setting in settings:
        path, equals, text = setting.partition("=")
        times = path.endswith("*")
        keys = path.removesuffix("*").strip().split(".")
        if not equals or not all(keys):
            raise StrategyError(f"--set {setting}: expected PATH=VALUE")
        value = _toml_value(text.strip())
        if keys[0] == "stages":
            targets, keys = list(stages.values()), keys[1:]
        elif keys[0] in stages:
            targets, keys = [stages[keys[0]]], keys[1:]
        elif keys[0] in data:
            targets = [data]
        else:
            known = [*stages, "stages", *(k for k in data if k != "stages")]
            raise StrategyError(f"--set {setting}: {keys[0]!r} is none of {_listed(known)}")
        if not keys:
            raise StrategyError(f"--set {setting}: name a field of the stage, as in NAME.weights.X")
        if times:
            _multiply(targets, keys, value, setting)
            continue
        for target in targets:
            _set(target, keys, value, setting)
    return from_table(Strategy, data, "--set", StrategyError)


def with_stages(strategy: Strategy, names: Sequence[str]) -> Strategy:
    """These stages of it, in this order.

    Raises:
        StrategyError: a stage that it does not have, or none at all.
    """
    stages = {stage.name: stage for stage in strategy.stages}
    _check(names, stages, f"strategy {strategy.name!r}: stages")
    return dataclasses.replace(strategy, stages=tuple(stages[name] for name in names))


def sees_depth(weights: Mapping[str, float], likelihoods: Iterable[str]) -> bool:
    """Whether an energy of these terms rises with the depth of hands in each other."""
    acting = {term for term, weight in weights.items() if weight > 0}.union(likelihoods)
    return not acting.isdisjoint(_DEPTH_TERMS)


def selecting_by_energy(strategy: Strategy) -> Strategy:
    """The same stages, each keeping its iterate of lowest weighted energy.

    The papers' rule guards a regressor's pose: no iterate may fit the joints worse than it. A
    start that was made from those very joints fits them best already, and under that rule
    nothing could move it, out of a collision for example.
    """
    stages = tuple(
        dataclasses.replace(
            stage, acceptance=Acceptance(select_by=(), max_ratio={}, every=stage.acceptance.every)
        )
        for stage in strategy.stages
    )
    return dataclasses.replace(strategy, stages=stages)


# Tables whose keys are a vocabulary of their own: a setting may add to them.
_OPEN_TABLES = {
    *("weights", "step_sizes", "anneal", "max_ratio"),
    *("report_weights", "scales", "kernels", "knees"),
}


def _set(target: dict, keys: list[str], value: Any, setting: str) -> None:
    for i, key in enumerate(keys[:-1]):
        if not isinstance(target.get(key), dict):
            raise StrategyError(f"--set {setting}: no table {key!r}; there are {_listed(target)}")
        target = target[key]
        last_table = keys[i]
    is_open = len(keys) > 1 and last_table in _OPEN_TABLES
    if keys[-1] not in target and not is_open:
        raise StrategyError(f"--set {setting}: no field {keys[-1]!r}; there are {_listed(target)}")
    target[keys[-1]] = value


def _multiply(targets: Iterable[dict], keys: list[str], factor: Any, setting: str) -> None:
    found = []
    for target in targets:
        for key in keys[:-1]:
            target = target.get(key, {}) if isinstance(target, dict) else {}
        if isinstance(target, dict) and keys[-1] in target:
            found.append(target)
    if not found:
        raise StrategyError(f"--set {setting}: there is no {'.'.join(keys)} to multiply")
    for table in found:
        there = table[keys[-1]]
        for number in (there, factor):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                raise StrategyError(f"--set {setting}: expected two numbers, found {number!r}")
        table[keys[-1]] = there * factor


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _validate(strategy: Strategy) -> None:
    where = f"strategy {strategy.name!r}"
    if not strategy.stages:
        raise StrategyError(f"{where}: it has no stages")
    names = [stage.name for stage in strategy.stages]
    if len(set(names)) < len(names):
        raise StrategyError(f"{where}: two stages have the same name among {_listed(names)}")
    reserved = {f.name for f in dataclasses.fields(Strategy)} & set(names)
    if reserved:
        raise StrategyError(f"{where}: a stage cannot be called {_listed(reserved)}")
    _check_weights(strategy.report_weights, f"{where}: report_weights")
    _check(strategy.scales, SCALE_UNITS, f"{where}: scales")
    _check(strategy.kernels, SCALE_UNITS, f"{where}: kernels")
    _check(strategy.knees, SCALE_UNITS, f"{where}: knees")
    for table in ("scales", "knees"):
        _check_numbers(getattr(strategy, table), f"{where}: {table}", positive=True)
    _check_likelihoods(strategy, strategy.report_likelihoods, f"{where}: report_likelihoods")
    if not strategy.report_weights and not strategy.report_likelihoods:
        raise StrategyError(
            f"{where}: it reports no energy: name terms in report_weights or report_likelihoods"
        )
    for stage in strategy.stages:
        _validate_stage(strategy, stage, f"{where}: stage {stage.name!r}")
    if any(a.restart_offset > b.restart_offset == 0 for a, b in pairwise(strategy.stages)):
        raise StrategyError(
            f"{where}: a stage with a restart_offset repairs what the others leave: put it last"
        )
    if strategy.repairs and not sees_depth(strategy.report_weights, strategy.report_likelihoods):
        raise StrategyError(
            f"{where}: restart_offset: THE energy decides which start was best, so it must see "
            f"how deep hands are: name one of {_listed(_DEPTH_TERMS)} in report_likelihoods, or "
            "with a weight in report_weights"
        )


def _validate_stage(strategy: Strategy, stage: Stage, where: str) -> None:
    if not stage.step_sizes:
        raise StrategyError(f"{where}: step_sizes is empty: it would free no parameter group")
    _check(stage.step_sizes, PARAMETER_GROUPS, f"{where}: step_sizes")
    _check_numbers(stage.step_sizes, f"{where}: step_sizes")
    _check_weights(stage.weights, f"{where}: weights")
    _check_likelihoods(strategy, stage.likelihoods, f"{where}: likelihoods")
    if not stage.weights and not stage.likelihoods:
        raise StrategyError(f"{where}: no term acts: name some in weights or likelihoods")
    _check(stage.acceptance.select_by, TERMS, f"{where}: acceptance.select_by")
    _check(stage.acceptance.max_ratio, TERMS, f"{where}: acceptance.max_ratio")
    _check_numbers(stage.acceptance.max_ratio, f"{where}: acceptance.max_ratio")
    judged = {*stage.acceptance.select_by, *stage.acceptance.max_ratio}
    if "contact" in judged and "contact" not in strategy.weighed:
        raise StrategyError(
            f"{where}: acceptance: 'contact' looks farther than a search without it: name it in "
            "weights, if only with 0"
        )
    _check_numbers({"restart_offset": stage.restart_offset}, where)
    every = stage.acceptance.every
    if every < 1:
        raise StrategyError(f"{where}: acceptance.every: expected at least 1, found {every}")
    if stage.solver == "lm":
        _validate_lm(strategy, stage, where)
        return
    if stage.anneal:
        raise StrategyError(f"{where}: anneal: only the solver 'lm' has it, this stage has 'adam'")
    if stage.iterations < 1 or stage.iterations % every != 1 % every:
        nearest = max(0, round((stage.iterations - 1) / every)) * every + 1
        raise StrategyError(
            f"{where}: iterations: expected a multiple of {every} (acceptance.every) plus one, "
            f"so that the last iterate is judged, found {stage.iterations}; {nearest} would do"
        )


def _validate_lm(strategy: Strategy, stage: Stage, where: str) -> None:
    if stage.iterations < 1:
        raise StrategyError(f"{where}: iterations: expected at least 1, found {stage.iterations}")
    _check(stage.anneal, stage.likelihoods, f"{where}: anneal")
    _check_numbers(stage.anneal, f"{where}: anneal", positive=True)
    if strategy.collision_engine.startswith("voxel"):
        raise StrategyError(
            f"{where}: the solver 'lm' needs the surface: collision_engine must be culled or "
            f"exact, found {strategy.collision_engine}"
        )


def _check_weights(weights: Mapping[str, float], where: str) -> None:
    _check(weights, [term for term in TERMS if term not in SCALED_ONLY], where)
    _check_numbers(weights, where)


def _check_likelihoods(strategy: Strategy, terms: Iterable[str], where: str) -> None:
    _check(terms, SCALE_UNITS, where)
    for term in terms:
        if term not in strategy.scales:
            raise StrategyError(
                f"{where}: {term!r} has no scale: add scales.{term} ({SCALE_UNITS[term]})"
            )


def _check(names: Iterable[str], known: Iterable[str], where: str) -> None:
    check_names(names, known, where, StrategyError)


def _check_numbers(table: Mapping[str, float], where: str, *, positive: bool = False) -> None:
    for key, value in table.items():
        if not 0 <= value < float("inf") or (positive and value == 0):
            least = "> 0" if positive else ">= 0"
            raise StrategyError(f"{where}.{key}: expected a finite number {least}, found {value}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
