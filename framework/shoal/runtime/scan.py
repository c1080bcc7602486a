"""What a handler's code does with its models, read from its syntax tree: the inputs it names, the outputs it uses.

The scan sees what is written plainly: a Model in a module-level variable, called with keywords, its result
subscripted with strings in the function that made the call. Where more is going on it says so, and the names it
gives are then a part of the truth.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shoal.core.hashing import tree_files

_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_RESULT_METHODS: Final = frozenset({"get"})


@dataclass(slots=True)
class Uses:
    """How one model is used; ``complete`` is False when a call or a result went where the scan cannot follow."""

    called_inputs: set[str] = field(default_factory=set)
    used_outputs: set[str] = field(default_factory=set)
    complete: bool = True


def scan(folder: Path) -> dict[str, Uses]:
    """Give the uses of every model named in the Python files below ``folder``, by the model's name."""
    trees = [_parse(folder / path) for path in tree_files(folder) if path.suffix == ".py"]
    variables = {name: model for tree in trees for name, model in _model_variables(tree)}
    uses = {model: Uses() for model in variables.values()}
    for tree in trees:
        local = _names_here(tree, variables)
        for scope in _scopes(tree):
            _Scope(local, uses).read(scope)
    return uses


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError):  # a file the handler does not import; had it, the import would have failed
        return ast.Module(body=[], type_ignores=[])


def _model_variables(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Give (variable, model) for each ``variable = Model("model")`` of a module."""
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        value = getattr(statement, "value", None)
        if targets and isinstance(value, ast.Call) and (model := _model_name(value)):
            yield from ((target.id, model) for target in targets if isinstance(target, ast.Name))


def _model_name(call: ast.Call) -> str:
    function = call.func
    name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
    given = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "name")]
    if name == "Model" and given and isinstance(given[0], ast.Constant) and isinstance(given[0].value, str):
        return given[0].value
    return ""


def _names_here(tree: ast.Module, variables: dict[str, str]) -> dict[str, str]:
    """Give the names by which this module knows models: its own variables and those it imports from a sibling."""
    names = dict(_model_variables(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            pairs = ((alias.asname or alias.name, alias.name) for alias in node.names)
            names.update({known_as: variables[name] for known_as, name in pairs if name in variables})
    return names


def _scopes(tree: ast.Module) -> Iterator[ast.AST]:
    """Give the module and every function in it; each is read without the functions inside it."""
    yield tree
    yield from (node for node in ast.walk(tree) if isinstance(node, _Function))


def _own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    pending = list(ast.iter_child_nodes(scope))
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, _Function):
            pending.extend(ast.iter_child_nodes(node))


class _Scope:
    """Reads one function: its calls of models, and what it does with the variables that hold their results."""

    def __init__(self, names: dict[str, str], uses: dict[str, Uses]) -> None:
        self._names = names
        self._uses = uses
        self._results: dict[str, str] = {}  # variable -> model
        self._accounted: set[int] = set()  # nodes whose meaning is known

    def read(self, scope: ast.AST) -> None:
        nodes = list(_own_nodes(scope))
        for node in nodes:
            self._read_assignment(node)
        for node in nodes:
            self._read_call(node)
            self._read_use(node)
        self._find_escapes(nodes)

    def _read_assignment(self, node: ast.AST) -> None:
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) or node.value is None:
            return
        if model := self._model_called(node.value):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            self._results.update(dict.fromkeys(names, model))
            if names:
                self._account(node.value)

    def _read_call(self, node: ast.AST) -> None:
        model = self._model_called(node)
        if not model or not isinstance(node, ast.Call):
            return
        uses = self._uses[model]
        uses.called_inputs.update(keyword.arg for keyword in node.keywords if keyword.arg)
        if node.args or any(keyword.arg is None for keyword in node.keywords):
            uses.complete = False

    def _read_use(self, node: ast.AST) -> None:
        """Read ``out["name"]`` and ``out.get("name")``, with a variable or the call itself as ``out``."""
        if isinstance(node, ast.Subscript):
            self._note(node.value, node.slice)
        elif isinstance(node, ast.Call) and node.args:
            function = node.func
            if isinstance(function, ast.Attribute) and function.attr in _RESULT_METHODS:
                self._note(function.value, node.args[0])

    def _note(self, result: ast.expr, key: ast.expr) -> None:
        model = self._results.get(result.id, "") if isinstance(result, ast.Name) else self._model_called(result)
        if not model:
            return
        self._account(result)
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            self._uses[model].used_outputs.add(key.value)
        else:
            self._uses[model].complete = False

    def _find_escapes(self, nodes: Iterable[ast.AST]) -> None:
        """Mark models whose results are used in another way: returned, passed on, iterated."""
        for node in nodes:
            if id(node) in self._accounted:
                continue
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in self._results:
                self._uses[self._results[node.id]].complete = False
            elif isinstance(node, ast.Call) and (model := self._model_called(node)):
                self._uses[model].complete = False

    def _account(self, node: ast.expr) -> None:
        self._accounted.add(id(node))
        if isinstance(node, ast.Await):
            self._accounted.add(id(node.value))

    def _model_called(self, node: ast.AST | None) -> str:
        """Give the model of ``model(…)``, ``model.sync(…)`` or an awaited one; empty for anything else."""
        if isinstance(node, ast.Await):
            node = node.value
        if not isinstance(node, ast.Call):
            return ""
        function: ast.AST = node.func
        if isinstance(function, ast.Attribute) and function.attr == "sync":
            function = function.value
        return self._names.get(function.id, "") if isinstance(function, ast.Name) else ""
