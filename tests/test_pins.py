"""What CI installs: every package that ours need, in one pinned version that satisfies all ranges.

Known holes in them are asked for by `make audit`, which needs the network; this does not.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.conftest import ROOT

TOOLS = {"pip", "setuptools"}
"""Of the environment itself, before any pin counts."""

PIN = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)")


def pins() -> dict[str, Version]:
    """Every line of the constraints file, which may hold nothing but exact versions."""
    found: dict[str, Version] = {}
    for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        match = PIN.fullmatch(line)
        assert match, f"no exact version of a registry's package: {line!r}"
        name = canonicalize_name(match[1])
        assert name not in found, f"{name} is pinned twice"
        found[name] = Version(match[2])
    return found


def wanted() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # CI, which the pins are for, has no GPU.
    extras = [e for name, e in project["optional-dependencies"].items() if name != "gpu"]
    found = [Requirement(text) for group in (project["dependencies"], *extras) for text in group]
    # An extra may name others of ours.
    return [requirement for requirement in found if requirement.name != project["name"]]


def test_direct_requirements_are_pinned_within_their_ranges() -> None:
    pinned = pins()
    for requirement in wanted():
        assert requirement.url is None, f"{requirement} comes from an address"
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not pinned"
        assert requirement.specifier.contains(pinned[name], prereleases=True), (
            f"{name} is pinned to {pinned[name]}, which is not {requirement.specifier}"
        )


def test_what_they_need_is_pinned_and_agrees() -> None:
    """All the way down, as the installed packages say; those not installed here are left out."""
    pinned, seen = pins(), set()
    waiting = [(requirement, frozenset(requirement.extras)) for requirement in wanted()]
    while waiting:
        requirement, extras = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in TOOLS:
            continue
        assert name in pinned, f"{name} is installed by {requirement}, but not pinned"
        assert requirement.specifier.contains(pinned[name], prereleases=True), requirement
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for text in needs:
            need = Requirement(text)
            if need.marker is None or any(
                need.marker.evaluate({"extra": extra}) for extra in (*extras, "")
            ):
                waiting.append((need, frozenset(need.extras)))
    assert len(seen) > 80
