"""A spec: everything that a benchmark run depends on, as a TOML file.

Every key is checked before anything runs, and an error names the file, the line and the fix.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args

from pydantic import (
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from workbench.bench import faults
from workbench.bench.faults import At
from workbench.bench.patterns import (
    ALONE,
    LOADS,
    Count,
    Isolated,
    Pattern,
    Share,
    Strict,
    Time,
)
from workbench.errors import WorkbenchError, invalid
from workbench.types import Options, TimingMode

METRICS: Final = ("ttft_s", "ttfo_s", "tpot_s", "itl_p50_s", "e2e_s", "e2e_eff_s", "queue_s")
"""Figures of ``latencies`` that an SLO may bound."""

Lengths = Annotated[tuple[Count, ...], Field(min_length=1, max_length=100)]
Limit = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Prompts(Strict):
    """Prompts made here: ``count`` of them for each length.

    Lengths are in tokens, that of the prompt roughly: the runtime's own count is in the log.
    """

    count: Count = 6
    input_tokens: Lengths = (64,)
    output_tokens: Lengths = (64,)


class ModelUse(Strict):
    """A model with options of its own, which win over those of the spec."""

    model: Annotated[str, Field(min_length=1)]
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _known(cls, options: dict[str, Any]) -> dict[str, Any]:
        _check(options)
        return options


def _kind(value: object) -> str:
    return "name" if isinstance(value, str) else "table"


Model = Annotated[
    Annotated[str, Tag("name")] | Annotated[ModelUse, Tag("table")], Discriminator(_kind)
]


class DatasetUse(Strict):
    """A dataset, how much of it, and how its answers are scored."""

    source: Annotated[str, Field(min_length=1)]
    limit: Count | None = None
    scorers: tuple[str | dict[str, Any], ...] = ()


class Slo(Strict):
    """What a request must keep to be good, and how many of all must be."""

    share: Share = 0.95
    ttft_s: Limit | None = None
    ttfo_s: Limit | None = None
    tpot_s: Limit | None = None
    itl_p50_s: Limit | None = None
    e2e_s: Limit | None = None
    e2e_eff_s: Limit | None = None
    queue_s: Limit | None = None

    @property
    def limits(self) -> dict[str, float]:
        """The bounded figures with their bounds."""
        found = {name: getattr(self, name) for name in METRICS}
        return {name: value for name, value in found.items() if value is not None}

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.limits:
            raise ValueError(f"bound at least one of {', '.join(METRICS)}")
        return self


class Stop(Strict):
    """When a run ends before all its repeats.

    ``within`` stops when every ratio between cells is known to this relative precision, ``decided``
    when it is shown which one of each two is higher (or, with a ``margin``, that they are no
    further apart than that). Both are looked at after ``min_repeats`` and then ever more rarely,
    by rules that such looks do not break (:mod:`workbench.bench.stopping`). ``max_s`` counts from
    the first trial.
    """

    within: Annotated[float, Field(gt=0, lt=1)] | None = None
    decided: bool = False
    margin: Annotated[float, Field(gt=0, lt=1)] | None = None
    metric: Literal[
        "ttft_s", "ttfo_s", "tpot_s", "itl_p50_s", "e2e_s", "output_tps", "decode_tps"
    ] = "tpot_s"
    min_repeats: Count = 5
    max_s: Time | None = None
    failures: Count = 3


class Pairwise(Strict):
    """A judge who says of two models' answers to one question which is better, in both orders."""

    model: Annotated[str, Field(min_length=1)]
    rubric: Annotated[str, Field(min_length=1)] | None = None
    questions: Count = 50
    """At most so many of each pair of cells, drawn where there are more."""


class Spec(Strict):
    """One benchmark."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,79}$")]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    models: Annotated[tuple[Model, ...], Field(min_length=1, max_length=100)]
    """Names; a model that has options of its own is a :class:`ModelUse`."""
    absent_models: Literal["refuse", "skip"] | None = None
    """What becomes of a run if some of them are not there; None: refuse."""
    repeats: Annotated[int, Field(ge=1, le=100_000)] = 5
    warm_ups: Annotated[int, Field(ge=0, le=100)] = 1
    timing_mode: TimingMode | None = None
    order: Literal["interleaved", "blocks"] = "interleaved"
    prefix: Literal["unique", "none"] | None = None
    system: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    grid: dict[str, Any] = Field(default_factory=dict)
    prompts: Prompts | None = None
    datasets: tuple[DatasetUse, ...] = ()
    load: Pattern = Field(default_factory=Isolated)
    slo: Slo | None = None
    pairwise: Pairwise | None = None
    stop: Stop = Field(default_factory=Stop)

    @field_validator("models")
    @classmethod
    def _named_once(cls, models: tuple[str | ModelUse, ...]) -> tuple[str | ModelUse, ...]:
        for model in models:
            name = model if isinstance(model, str) else model.model
            if not name.strip():
                raise ValueError("a model has no name")
            if models.count(model) > 1:
                raise ValueError(f"{name!r} is there twice")
        return models

    @field_validator("options")
    @classmethod
    def _known_options(cls, options: dict[str, Any]) -> dict[str, Any]:
        _check(options)
        return options

    @field_validator("grid")
    @classmethod
    def _lists(cls, grid: dict[str, Any]) -> dict[str, Any]:
        axes = [(name, values) for name, values in grid.items() if name != "load_options"]
        nested = grid.get("load_options", {})
        if not isinstance(nested, dict):
            raise At("load_options", 'a table, for example quantization = ["none", "int8"]')
        for name, values in (*axes, *nested.items()):
            if not isinstance(values, list) or not values:
                raise At(name, "must be a list of values")
        for name, values in axes:
            for value in values:
                _check({name: value})
        return grid

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.load.pattern == "trace":
            if self.datasets:
                raise At("datasets", "a trace brings its own prompts; leave datasets out")
        elif self.prompts is not None and self.datasets:
            raise At("datasets", "give prompts or datasets, not both")
        if self.timing_mode not in (None, TimingMode.CONCURRENT) and not self.alone:
            raise At(
                "timing_mode",
                f"load {self.load.pattern!r} has several requests at once, which "
                f"{self.timing_mode} forbids; leave it out",
            )
        if self.load.pattern == "sweep" and self.slo is None:
            raise At("load", "a sweep looks for the knee of an SLO; add [slo]")
        if both := sorted(self.options.keys() & self.grid.keys()):
            raise At(f"grid.{both[0]}", "is in options too")
        if self.pairwise is not None and len(self.models) == 1 and not self.grid:
            raise At("pairwise", "there is one model, which has nothing to be compared with")
        seen: list[tuple[str, dict[str, Any]]] = []
        for use in self.uses:
            if both := sorted(use.options.keys() & self.grid.keys()):
                raise At(f"grid.{both[0]}", f"is an option of {use.model}'s own")
            asked = (use.model, {**self.options, **use.options})
            if asked in seen:
                raise At("models", f"{use.model!r} is there twice with the same options")
            seen.append(asked)
        return self

    @property
    def uses(self) -> tuple[ModelUse, ...]:
        """The models, each with the options of its own, mostly none."""
        return tuple(
            ModelUse(model=model) if isinstance(model, str) else model for model in self.models
        )

    @property
    def alone(self) -> bool:
        """Whether one request runs at a time."""
        return isinstance(self.load, ALONE)

    @property
    def mode(self) -> TimingMode:
        """How requests may overlap: isolated, unless the load is made of several at once."""
        if self.timing_mode is not None:
            return self.timing_mode
        return TimingMode.ISOLATED if self.alone else TimingMode.CONCURRENT

    @property
    def prefixed(self) -> bool:
        """Whether prompts begin with words of their own, which no prompt cache knows."""
        return self.prefix != "none" if self.prefix else not self.datasets

    def to_dict(self) -> dict[str, Any]:
        """JSON values; :meth:`of` builds the same spec from them."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Spec:
        """A spec from a mapping.

        Raises:
            WorkbenchError: ``INVALID_REQUEST``; the message names the key.
        """
        return _parsed(values, "spec", "")


def read(path: Path | str) -> Spec:
    """The spec in a TOML file.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``; the message names the file, the line and the fix.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise invalid(
            f"The spec {path} cannot be read: {why}.", fix="Make one with: workbench bench init."
        ) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Spec:
    """The spec in a text; ``name`` stands for the file in messages.

    Raises:
        WorkbenchError: ``INVALID_REQUEST``.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise invalid(f"{name}: no TOML: {error}.", fix="Correct this line.") from None
    return _parsed(values, name, text)


def _parsed(values: Mapping[str, Any], name: str, text: str) -> Spec:
    try:
        return Spec.model_validate(_listed(values))
    except ValidationError as error:
        raise faults.problem(error, _known, name, text) from None


def _listed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Where a list of values is wanted, one value alone will do."""
    found = dict(values)
    for table, keys in (
        ("load", ("users", "rate_per_s")),
        ("prompts", ("input_tokens", "output_tokens")),
    ):
        inner = found.get(table)
        if isinstance(inner, Mapping):
            found[table] = {
                key: [value] if key in keys and isinstance(value, int | float) else value
                for key, value in inner.items()
            }
            if table == "load":
                found[table].setdefault("pattern", "isolated")
    return found


def _known(path: Sequence[str | int]) -> list[str]:
    """The keys of the table at a path of pydantic's."""
    tables: dict[str | int, type[Strict]] = {
        "models": ModelUse, "prompts": Prompts, "datasets": DatasetUse, "slo": Slo,
        "pairwise": Pairwise, "stop": Stop,
    }  # fmt: skip
    if path[:1] == ("load",):
        loads = {get_args(kind.model_fields["pattern"].annotation)[0]: kind for kind in LOADS}
        return [*loads[path[1]].model_fields]
    return [*(tables[path[0]] if path else Spec).model_fields]


def _check(options: Mapping[str, Any]) -> None:
    wrong = []
    for name, value in options.items():
        try:
            Options.from_mapping({name: value})
        except WorkbenchError as error:
            said = f"{error.message.removesuffix('.')}; {error.fix}".rstrip("; .")
            wrong.append(At(name, said))
    if wrong:
        raise At(".".join(wrong[0].path), str(wrong[0]), wrong[1:])
