"""Strategies: a fit described as data.

A strategy is a list of stages. A stage names the parameter groups it frees with their step
sizes, the weight of each objective, and the rule by which its best iterate is chosen. Strategies
are read from and written to TOML, so an ablation is a file; numbers in them are traced, so a
sweep over weights or step sizes compiles once.
"""

import dataclasses
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomli_w

from fitting.errors import InputError
from fitting.parameters import PARAMETER_GROUPS
from objectives.collision import CollisionEngine
from objectives.joint_limits import AngleFrame
from objectives.total import TERMS


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
    """Step size of each parameter group that the stage frees; the others stay as they are."""
    weights: dict[str, float]
    """Weight of each objective's energy; an objective that is not named has none."""
    solver: Literal["adam"] = "adam"
    """How it is minimised."""
    iterations: int = 301
    """Iterates, the start included; a multiple of `acceptance.every` plus one, so that the last
    one is judged too."""
    acceptance: Acceptance = field(default_factory=Acceptance)
    """Which iterate is kept."""


@dataclass(frozen=True)
class Strategy:
    """How frames are refined, from start to finish."""

    name: str
    """Name of the preset or file."""
    description: str
    """What it is for, in a sentence."""
    report_weights: dict[str, float]
    """Weights of THE energy: what is reported before and after, and may not rise in any frame."""
    stages: tuple[Stage, ...]
    """In the order they run; each starts from the best iterate of the one before."""
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
    def terms(self) -> tuple[str, ...]:
        """Objectives that any stage weighs, in the order of `TERMS`."""
        used = {term for stage in self.stages for term in stage.weights}
        return tuple(term for term in TERMS if term in used)


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
    return _build(Strategy, data, origin)


def strategy_to_toml(strategy: Strategy) -> str:
    """The strategy as TOML; reading it gives an equal strategy."""
    return tomli_w.dumps(dataclasses.asdict(strategy))


def override(strategy: Strategy, settings: Iterable[str]) -> Strategy:
    """Apply `path=value` settings, such as `finger_pose.weights.collision=2`.

    A path starts with a stage's name, with `stages` for all of them, or with a field of the
    strategy; values are TOML, bare words strings.

    Raises:
        StrategyError: a path that leads nowhere; the message lists what is there.
    """
    data = dataclasses.asdict(strategy)
    stages = {stage["name"]: stage for stage in data["stages"]}
    for setting in settings:
        path, equals, text = setting.partition("=")
        keys = path.strip().split(".")
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
        for target in targets:
            _set(target, keys, value, setting)
    return _build(Strategy, data, "--set")


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
_OPEN_TABLES = {"weights", "step_sizes", "max_ratio", "report_weights"}


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


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _build(kind: type, data: Mapping[str, Any], where: str) -> Any:
    """Make a dataclass of a TOML table, refusing unknown keys and wrong types by name."""
    known = {f.name: f for f in dataclasses.fields(kind)}
    for key in data:
        if key not in known:
            raise StrategyError(f"{where}: unknown key {key!r}; known: {_listed(known)}")
    values = {}
    for name, f in known.items():
        if name in data:
            values[name] = _convert(f.type, data[name], f"{where}: {name}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise StrategyError(f"{where}: missing key {name!r}")
    return kind(**values)


def _convert(kind: Any, value: Any, where: str) -> Any:
    if kind is Acceptance:
        return _build(Acceptance, _expect(value, dict, where), where)
    if kind == tuple[Stage, ...]:
        stages = _expect(value, (list, tuple), where)
        return tuple(_build(Stage, s, f"{where}[{i}]") for i, s in enumerate(stages))
    if kind == tuple[str, ...]:
        items = _expect(value, (list, tuple), where)
        return tuple(_expect(item, str, where) for item in items)
    if kind == dict[str, float]:
        table = _expect(value, dict, where)
        return {k: float(_expect(v, (int, float), f"{where}.{k}")) for k, v in table.items()}
    if get_origin(kind) is Literal:
        _check_names([_expect(value, str, where)], get_args(kind), where)
        return value
    return _expect(value, int if kind is int else str, where)


def _expect(value: Any, kind: type | tuple[type, ...], where: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(k.__name__ for k in kinds)
        raise StrategyError(f"{where}: expected {names}, found {value!r}")
    return value


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
    _check_names(strategy.report_weights, TERMS, f"{where}: report_weights")
    _check_numbers(strategy.report_weights, f"{where}: report_weights")
    for stage in strategy.stages:
        _validate_stage(stage, f"{where}: stage {stage.name!r}")


def _validate_stage(stage: Stage, where: str) -> None:
    if not stage.step_sizes:
        raise StrategyError(f"{where}: step_sizes is empty: it would free no parameter group")
    _check_names(stage.step_sizes, PARAMETER_GROUPS, f"{where}: step_sizes")
    _check_names(stage.weights, TERMS, f"{where}: weights")
    _check_names(stage.acceptance.select_by, TERMS, f"{where}: acceptance.select_by")
    _check_names(stage.acceptance.max_ratio, TERMS, f"{where}: acceptance.max_ratio")
    for table in ("step_sizes", "weights"):
        _check_numbers(getattr(stage, table), f"{where}: {table}")
    _check_numbers(stage.acceptance.max_ratio, f"{where}: acceptance.max_ratio")
    every = stage.acceptance.every
    if every < 1:
        raise StrategyError(f"{where}: acceptance.every: expected at least 1, found {every}")
    if stage.iterations < 1 or stage.iterations % every != 1 % every:
        nearest = max(0, round((stage.iterations - 1) / every)) * every + 1
        raise StrategyError(
            f"{where}: iterations: expected a multiple of {every} (acceptance.every) plus one, "
            f"so that the last iterate is judged, found {stage.iterations}; {nearest} would do"
        )


def _check_names(names: Iterable[str], known: Iterable[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise StrategyError(f"{where}: unknown {name!r}; known: {_listed(known)}")


def _check_numbers(table: Mapping[str, float], where: str) -> None:
    for key, value in table.items():
        if not 0 <= value < float("inf"):
            raise StrategyError(f"{where}.{key}: expected a finite number >= 0, found {value}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
