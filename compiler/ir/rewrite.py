"""Rewrite rules as equations: `find` may be replaced by `make` unless a guard gives a reason not to.

Patterns are written with the constructors that build graphs. The parameters of `find` are the holes; a
hole's default may restrict what it takes:

    Rule("fuse-silu",
         find=lambda x: mul(x, sigmoid(x)),
         make=lambda x: silu(x),
         examples=({"x": "f32[3,8]"},))

    find=lambda x, c=scalar(): mul(x, c)          # c: a constant whose elements are all equal
    find=lambda x: reduce_sum(x, axes=Marker("axes"))   # binds the attribute to the name `axes`
    find=lambda x: relu(named("inner", add(x, x)))      # binds the matched value to the name `inner`

`make` takes any of the bound names. Both sides of every rule are evaluated on `examples` by the tests.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from isthmus.errors import CompilerBug
from isthmus.ir.graph import HOLE, Attr, Graph, Marker, Trait, Value, use_counts, weight_of

# More rewrites of one node than any sane rule set needs; reaching it means two rules undo each other.
MAX_REWRITES_PER_NODE = 200


@dataclass(frozen=True, slots=True)
class scalar:
    """Restricts a hole to a constant whose elements all equal `value` (within `rtol`), or any one number."""

    value: float | None = None
    rtol: float = 1e-3

    def accepts(self, found: Value) -> bool:
        number = splat(found)
        if number is None or self.value is None:
            return number is not None
        return bool(np.isclose(number, self.value, rtol=self.rtol, atol=0))


@dataclass(frozen=True, slots=True)
class weight:
    """Restricts a hole to a constant, of `rank` if given."""

    rank: int | None = None

    def accepts(self, found: Value) -> bool:
        return weight_of(found) is not None and (self.rank is None or found.t.rank == self.rank)


@dataclass(frozen=True, slots=True)
class such:
    """Restricts a hole to values that `accepts` says yes to. A guard, by contrast, tells why it refused."""

    accepts: Callable[[Value], bool]


Restriction = scalar | weight | such


def splat(value: Value) -> float | None:
    """The number all elements of a floating-point or integer constant equal, else None. Small constants only."""
    if value.op.name == "full":
        return float(value.attr("value"))
    handle = weight_of(value)
    if handle is None or handle.type.encoding is not None or not value.t.is_static:
        return None
    size = value.t.size
    if (
        not isinstance(size, int)
        or not 0 < size <= 1 << 16
        or not (value.dtype.is_float or value.dtype.is_integer)
    ):
        return None
    array = handle.read().reshape(-1)
    return float(array[0]) if bool((array == array[0]).all()) else None


class Match:
    """What the holes, markers and names of a pattern were bound to."""

    def __init__(self, root: Value, uses: Mapping[Value, int]) -> None:
        self.root = root
        self.bound: dict[str, Value | Attr] = {}
        self._uses = uses

    def value(self, name: str) -> Value:
        found = self.bound[name]
        assert isinstance(found, Value)
        return found

    def attr(self, name: str) -> Attr:
        found = self.bound[name]
        assert not isinstance(found, Value)
        return found

    def scalar(self, name: str) -> float:
        """The number a `scalar()` hole holds."""
        number = splat(self.value(name))
        assert number is not None
        return number

    def uses(self, name: str) -> int:
        """How many users the value bound to `name` has in the graph before the sweep."""
        return self._uses.get(self.value(name), 1)


Guard = Callable[[Match], str | None]


def always(_: Match) -> str | None:
    return None


@dataclass(frozen=True, slots=True)
class Rule:
    """`find` may be replaced by `make`, unless `unless` gives a reason. `examples` give each hole a type
    (or a number, for scalar holes) and each marker a value, for the equation test."""

    name: str
    find: Callable[..., Value]
    make: Callable[..., Value]
    unless: Guard = always
    examples: tuple[Mapping[str, object], ...] = field(default=(), repr=False)

    def restrictions(self) -> Mapping[str, Restriction | None]:
        """The holes by name, with what restricts them."""
        found: dict[str, Restriction | None] = {}
        for name, parameter in inspect.signature(self.find).parameters.items():
            default = parameter.default
            found[name] = default if isinstance(default, scalar | weight | such) else None
        return found

    def pattern(self) -> Value:
        return self.find(**{name: Value(HOLE, (), (("name", name),), None) for name in self.restrictions()})

    def replacement(self, match: Match) -> Value:
        wanted = inspect.signature(self.make).parameters
        if list(wanted) == ["m"]:
            return self.make(match)
        return self.make(**{name: match.bound[name] for name in wanted})


NAMED = replace(HOLE, name="named", arity=(1, 1))


def named(name: str, inner: Value) -> Value:
    """In a pattern: bind the value that matches `inner` to `name`."""
    return Value(NAMED, (inner,), (("name", name),), None)


@dataclass(frozen=True, slots=True)
class Event:
    """What a rule did at a value: `reason` is empty when it fired, else why it refused."""

    rule: str
    at: Value
    reason: str = ""


Watch = Callable[[Event], None]


def _ignore(_: Event) -> None:
    return None


@dataclass(frozen=True, slots=True)
class _Prepared:
    rule: Rule
    pattern: Value
    restrictions: Mapping[str, Restriction | None]


def _match(
    pattern: Value, value: Value, bound: dict[str, Value | Attr], rule: _Prepared
) -> Iterator[dict[str, Value | Attr]]:
    """Yield every way `value` fits `pattern`, extending `bound`. Commutative arguments are tried both ways."""
    if pattern.op is HOLE:
        name = pattern.attr("name")
        if name in bound:
            if bound[name] is value:
                yield bound
            return
        restriction = rule.restrictions[name]
        if restriction is None or restriction.accepts(value):
            yield {**bound, name: value}
        return
    if pattern.op is NAMED:
        for found in _match(pattern.args[0], value, bound, rule):
            yield {**found, pattern.attr("name"): value}
        return
    if pattern.op is not value.op or len(pattern.args) != len(value.args):
        return
    matched = _match_attrs(pattern, value, bound)
    if matched is None:
        return
    orders = [value.args]
    if Trait.COMMUTATIVE in pattern.op.traits and len(value.args) == 2:
        orders.append(value.args[::-1])
    for order in orders:
        yield from _match_all(pattern.args, order, matched, rule)


def _match_all(
    patterns: Sequence[Value], values: Sequence[Value], bound: dict[str, Value | Attr], rule: _Prepared
) -> Iterator[dict[str, Value | Attr]]:
    if not patterns:
        yield bound
        return
    for found in _match(patterns[0], values[0], bound, rule):
        yield from _match_all(patterns[1:], values[1:], found, rule)


def _match_attrs(
    pattern: Value, value: Value, bound: dict[str, Value | Attr]
) -> dict[str, Value | Attr] | None:
    for (name, wanted), (_, got) in zip(pattern.attrs, value.attrs, strict=True):
        if isinstance(wanted, Marker):
            if not wanted.name:
                continue
            if bound.get(wanted.name, got) != got:
                return None
            bound = {**bound, wanted.name: got}
        elif isinstance(wanted, float) and isinstance(got, float):
            if not np.isclose(wanted, got, rtol=1e-6):
                return None
        elif wanted != got:
            return None
    return bound


def rewrite(graph: Graph, rules: Sequence[Rule], watch: Watch = _ignore) -> Graph:
    """Apply `rules` bottom-up until none fits, in one sweep. Returns `graph` itself when nothing changed.

    A rule that fires at a node is tried against what it made, too. `watch` sees every firing and refusal.
    """
    prepared: dict[str, list[_Prepared]] = {}
    for rule in rules:
        pattern = rule.pattern()
        prepared.setdefault(
            pattern.op.name if pattern.op is not NAMED else pattern.args[0].op.name, []
        ).append(_Prepared(rule, pattern, rule.restrictions()))
    sweep = _Sweep(prepared, use_counts(graph), watch)
    for node in graph.nodes():
        sweep.visit(node)
    return graph.with_outputs(tuple(sweep.done.get(v, v) for _, v in graph.outputs))


class _Sweep:
    def __init__(
        self, rules: Mapping[str, Sequence[_Prepared]], uses: dict[Value, int], watch: Watch
    ) -> None:
        self.rules = rules
        self.uses = uses
        self.watch = watch
        self.done: dict[Value, Value] = {}

    def visit(self, node: Value) -> None:
        args = tuple(self.done.get(a, a) for a in node.args)
        new = node
        if any(a is not b for a, b in zip(args, node.args, strict=True)):
            new = replace(node, args=args)
            self.uses[new] = self.uses.get(node, 1)
        self.done[node] = self._settle(new)

    def _settle(self, node: Value) -> Value:
        """Rewrite `node`, and whatever new values that makes, until no rule fits."""
        for _ in range(MAX_REWRITES_PER_NODE):
            new = self._rewrite_once(node)
            if new is None:
                return node
            uses = self.uses.get(node, 1)
            # A value that was there before keeps its other users.
            self.uses[new] = self.uses[new] + uses - 1 if new in self.uses else uses
            node = self._settle_made(new, node.loc)
        raise CompilerBug(
            f"rules undo each other at {node.op.name} ({node.loc}): {[p.rule.name for p in self.rules[node.op.name]]}"
        )

    def _settle_made(self, node: Value, loc: str) -> Value:
        """Arguments that a rule has just made are new values too: place them at `loc` and visit them."""
        for arg in node.args:
            if arg in self.uses:
                continue
            self.uses[arg] = node.args.count(arg)
            if arg.is_leaf:
                continue
            placed = arg if arg.loc else replace(arg, loc=loc)
            self.uses[placed] = self.uses[arg]
            self.done[arg] = self._settle(self._settle_made(placed, loc))
        args = tuple(self.done.get(a, a) for a in node.args)
        if all(a is b for a, b in zip(args, node.args, strict=True)):
            return node
        new = replace(node, args=args)
        self.uses[new] = self.uses.get(node, 1)
        return new

    def _rewrite_once(self, node: Value) -> Value | None:
        for prepared in self.rules.get(node.op.name, ()):
            match = self._first_allowed(prepared, node)
            if match is None:
                continue
            made = prepared.rule.replacement(match)
            if made.type != node.type:
                raise CompilerBug(
                    f"{prepared.rule.name} changed the type at {node.loc}: {node.type} became {made.type}"
                )
            self.watch(Event(prepared.rule.name, node))
            return made if made.loc or made.is_leaf or made in self.uses else replace(made, loc=node.loc)
        return None

    def _first_allowed(self, prepared: _Prepared, node: Value) -> Match | None:
        reason: str | None = None
        for bound in _match(prepared.pattern, node, {}, prepared):
            match = Match(node, self.uses)
            match.bound = bound
            reason = prepared.rule.unless(match)
            if reason is None:
                return match
        if reason:
            self.watch(Event(prepared.rule.name, node, reason))
        return None
