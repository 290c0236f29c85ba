"""The changes of a module's functions that mutmut thinks of, and how one is made in a process."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import libcst as cst
from mutmut.mutation.file_mutation import create_mutations, deep_replace, group_by_top_level_node


@dataclass(frozen=True)
class Mutant:
    """One change of one function."""

    name: str
    """As ``workbench.rotation.room.Room.after:14``."""
    module: str
    function: str
    was: str
    source: str

    @property
    def diff(self) -> str:
        """The lines that differ."""
        was, now = self.was.splitlines(), self.source.splitlines()
        lines = difflib.unified_diff(was, now, n=0, lineterm="")
        return "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))


def mutants(path: str) -> Iterator[Mutant]:
    """Each change of the functions and methods of a file, in its order."""
    tree, mutations, _, _ = create_mutations(path, _bare(cst.parse_module(Path(path).read_text())))
    changes = group_by_top_level_node(mutations)
    module = path.removesuffix(".py").replace("/", ".")
    for function, node in _functions(tree):
        was = _code(node)
        seen = {was}
        for change in changes.get(node, ()):
            source = _code(deep_replace(node, change.original_node, change.mutated_node))
            if source not in seen:
                yield Mutant(f"{module}.{function}:{len(seen)}", module, function, was, source)
            seen.add(source)


def _bare(module: cst.Module) -> str:
    """The file without decorators of functions: mutmut would leave these alone."""

    def bare(statement: Any) -> Any:
        if isinstance(statement, cst.FunctionDef):
            return statement.with_changes(decorators=())
        if isinstance(statement, cst.ClassDef):
            body = [bare(inner) for inner in statement.body.body]
            return statement.with_changes(body=statement.body.with_changes(body=body))
        return statement

    return module.with_changes(body=[bare(statement) for statement in module.body]).code


def _functions(module: cst.Module) -> Iterator[tuple[str, cst.FunctionDef]]:
    for statement in module.body:
        if isinstance(statement, cst.FunctionDef):
            yield statement.name.value, statement
        elif isinstance(statement, cst.ClassDef):
            for inner in statement.body.body:
                if isinstance(inner, cst.FunctionDef):
                    yield f"{statement.name.value}.{inner.name.value}", inner


def _code(node: Any) -> str:
    return cst.Module([node]).code


def found(module: str, function: str) -> FunctionType:
    """The function itself, under whatever decorates it."""
    it: Any = importlib.import_module(module)
    for part in function.split("."):
        it = vars(it)[part]
    it = getattr(it, "fget", None) or getattr(it, "__func__", it)
    unwrapped: FunctionType = inspect.unwrap(it)
    return unwrapped


def put(module: str, function: str, source: str) -> None:
    """Exchange the code of a function in this process, wherever it is known."""
    scope = dict(vars(importlib.import_module(module)))
    flags = annotations.compiler_flag
    exec(compile(source, f"{module}.{function}", "exec", flags, dont_inherit=True), scope)
    new, old = scope[function.rpartition(".")[2]], found(module, function)
    old.__code__ = new.__code__
    old.__defaults__, old.__kwdefaults__ = new.__defaults__, new.__kwdefaults__
