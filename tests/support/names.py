"""Names that a README's Python uses: imported, looked up and called as far as types are known."""

import ast
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, get_args, get_origin, get_type_hints

from farm.errors import RequestError
from farm.model.parameters import check_parameters


class NameFault(Exception):  # noqa: N818 - NameError is Python's
    """A module, an attribute or a keyword that is not there."""


@dataclass(frozen=True)
class Instance:
    """A value of which only its class is known."""

    of: Any


def check_names(code: str) -> None:
    """Raise NameFault, or SyntaxError. What is of unknown type is not looked at."""
    compile(code, "README", "exec")
    _Reader().visit(ast.parse(code))


class _Reader(ast.NodeVisitor):
    """Follows a program's values by their annotations, without running it."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            self._known[name.asname or name.name.partition(".")[0]] = _module(
                name.name if name.asname else name.name.partition(".")[0]
            )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for name in node.names:
            self._known[name.asname or name.name] = _attribute(
                _module(node.module or ""), name.name
            )

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self._value(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._known[target.id] = value

    def visit_For(self, node: ast.For) -> None:
        every = self._value(node.iter)
        if isinstance(node.target, ast.Name):
            arguments = get_args(every.of) if isinstance(every, Instance) else ()
            self._known[node.target.id] = Instance(arguments[0]) if arguments else None
        for each in node.body:
            self.visit(each)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._value(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._value(node)

    def _value(self, node: ast.expr) -> Any:
        """What an expression is: an object, an Instance, or None where nobody knows."""
        if isinstance(node, ast.Name):
            return self._known.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._value(node.value)
            return None if owner is None else _attribute(owner, node.attr)
        if isinstance(node, ast.Call):
            for argument in (*node.args, *(each.value for each in node.keywords)):
                self._value(argument)
            return _called(self._value(node.func), node)
        for below in ast.iter_child_nodes(node):
            self.visit(below)
        return None


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise NameFault(f"there is no module {name}") from error


def _attribute(owner: Any, name: str) -> Any:
    if not isinstance(owner, Instance):
        if not hasattr(owner, name):
            raise NameFault(f"{owner!r} has no {name!r}")
        return getattr(owner, name)
    kind = get_origin(owner.of) or owner.of
    if not isinstance(kind, type):
        return None
    found = getattr(kind, name, None)
    if found is not None:
        return found.__get__(object.__new__(kind)) if inspect.isfunction(found) else None
    if not any(name in getattr(base, "__annotations__", {}) for base in kind.__mro__):
        raise NameFault(f"{kind.__name__} has no {name!r}")
    return None


def _called(function: Any, call: ast.Call) -> Any:
    """What a call gives; its keywords must be the function's."""
    if not callable(function) or isinstance(function, Instance):
        return None
    keywords = {each.arg: each.value for each in call.keywords if each.arg}
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # of a type in C
        return None
    names = {each.name for each in parameters}
    others = next((each.name for each in parameters if each.kind is each.VAR_KEYWORD), None)
    if others == "parameters":  # as `farm.submit` has them
        _check_parameters(keywords)
    elif others is None and keywords.keys() - names:
        raise NameFault(f"{function!r} takes no {', '.join(keywords.keys() - names)}")
    if isinstance(function, type):
        return Instance(function)
    return _result(function)


def _check_parameters(keywords: dict[str, ast.expr]) -> None:
    try:
        check_parameters({name: ast.literal_eval(value) for name, value in keywords.items()})
    except RequestError as error:
        raise NameFault(str(error)) from error


def _result(function: Callable[..., Any]) -> Any:
    try:
        hint = get_type_hints(function).get("return")
    except (NameError, TypeError):
        return None
    if hint is Self:
        owner = getattr(function, "__self__", None)
        hint = owner if isinstance(owner, type) else type(owner)
    return None if hint in (None, Any, type(None)) else Instance(hint)
