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
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from isthmus.errors import CompilerBug
from isthmus.ir.graph import (
    HOLE,
    Attr,
    Graph,
    Marker,
    Trait,
    TypeMismatch,
    Value,
    use_counts,
    walk,
    weight_of,
)
from isthmus.ir.types import DType

# More rewrites of one node than any sane rule set needs; reaching it means two rules undo each other.
MAX_REWRITES_PER_NODE = 200

# How far a number may be from what it was meant to be after two roundings to 16 bits, relatively.
ROUNDED = {DType.F16: 2.0**-10, DType.BF16: 2.0**-7}


@dataclass(frozen=True, slots=True)
class scalar:
    """Restricts a hole to a constant whose elements all equal `value` (within `rtol`), or any one number."""

    value: float | None = None
    rtol: float = 1e-3

    def accepts(self, found: Value) -> bool:
        number = splat(found)
        if number is None or self.value is None:
            return number is not None
        # A constant that was rounded to 16 bits is no closer than those allow; exactly 1 stays exactly 1.
        rtol = max(self.rtol, ROUNDED.get(found.dtype, 0.0)) if self.rtol else 0.0
        return bool(np.isclose(number, self.value, rtol=rtol, atol=0))


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
    """The number that all elements of a small constant (not of booleans) equal, else None."""
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
        """How often the value bound to `name` is an argument or an output, in the graph rewritten so far."""
        return self._uses.get(self.value(name), 1)


Guard = Callable[[Match], str | None]


def always(_: Match) -> str | None:
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """`find` may be replaced by `make`, unless `unless` gives a reason; an empty one goes without saying.

    `examples` give each hole a type (or a number, for scalar holes) and each marker a value, for the
    equation test.
    """

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
        """What to put in the place of `match`. A `make` whose only parameter is `m` is given the match."""
        wanted = inspect.signature(self.make).parameters
        if list(wanted) == ["m"]:
            return self.make(match)
        return self.make(**{name: match.bound[name] for name in wanted})


NAMED = replace(HOLE, name="named", arity=(1, 1))


def named(name: str, inner: Value) -> Value:
    """In a pattern: bind the value that matches `inner` to `name`. On values of a graph: `inner` itself."""
    return inner if inner.type is not None else Value(NAMED, (inner,), (("name", name),), None)


@dataclass(frozen=True, slots=True)
class Event:
    """What a rule did at a value: `reason` is empty when it fired, else why it refused.

    `inner` are the other values that the match covers: those that parts of the pattern met, not its holes.
    `made` is what was put in the place of `at`; without a location, it gets that of `at`.
    """

    rule: str
    at: Value
    reason: str = ""
    inner: tuple[Value, ...] = ()
    made: Value | None = None


Watch = Callable[[Event], None]


def _ignore(_: Event) -> None:
    return None


Bound = dict[str, "Value | Attr"]


@dataclass(frozen=True, slots=True)
class _Prepared:
    rule: Rule
    pattern: Value
    restrictions: Mapping[str, Restriction | None]


def _prepare(rules: Sequence[Rule]) -> Mapping[str, Sequence[_Prepared]]:
    """The rules by the op that their patterns end in, in the given order."""
    prepared: dict[str, list[_Prepared]] = {}
    for rule in rules:
        ready = _prepared(rule)
        root = ready.pattern
        while root.op is NAMED:
            (root,) = root.args
        prepared.setdefault(root.op.name, []).append(ready)
    return prepared


@lru_cache(maxsize=4096)
def _prepared(rule: Rule) -> _Prepared:
    return _Prepared(rule, rule.pattern(), rule.restrictions())


def _match(pattern: Value, value: Value, bound: Bound, rule: _Prepared) -> Iterator[Bound]:
    """Yield every way `value` fits `pattern`, extending `bound`. Commutative arguments are tried both ways.

    A pattern is matched as a tree: two parts of it that look the same may meet two values that do.
    """
    if pattern.op is HOLE:
        restriction = rule.restrictions[pattern.attr("name")]
        if restriction is None or restriction.accepts(value):
            yield from _bind(pattern.attr("name"), value, bound)
        return
    if pattern.op is NAMED:
        for found in _match(pattern.args[0], value, bound, rule):
            yield from _bind(pattern.attr("name"), value, found)
        return
    if pattern.op is not value.op or len(pattern.args) != len(value.args):
        return
    matched = _match_attrs(pattern, value, bound)
    if matched is None:
        return
    yield from _match_all(pattern.args, value.args, matched, rule)
    if Trait.COMMUTATIVE in pattern.op.traits and len(value.args) == 2 and value.args[0] is not value.args[1]:
        yield from _match_all(pattern.args, value.args[::-1], matched, rule)


def _bind(name: str, value: Value, bound: Bound) -> Iterator[Bound]:
    """A name stands for one value."""
    if name not in bound:
        yield {**bound, name: value}
    elif bound[name] is value:
        yield bound


def _match_all(
    patterns: Sequence[Value], values: Sequence[Value], bound: Bound, rule: _Prepared
) -> Iterator[Bound]:
    if not patterns:
        yield bound
        return
    for found in _match(patterns[0], values[0], bound, rule):
        yield from _match_all(patterns[1:], values[1:], found, rule)


def _covered(rule: _Prepared, match: Match) -> tuple[Value, ...]:
    """The values under the root that parts of the pattern met."""
    holes = frozenset(v for name in rule.restrictions if isinstance(v := match.bound.get(name), Value))
    return tuple(walk(tuple(a for a in match.root.args if a not in holes), holes))


def _match_attrs(pattern: Value, value: Value, bound: Bound) -> Bound | None:
    for (_, wanted), (_, got) in zip(pattern.attrs, value.attrs, strict=True):
        if isinstance(wanted, Marker):
            if not wanted.name:
                continue
            if bound.get(wanted.name, got) != got:
                return None
            bound = {**bound, wanted.name: got}
        elif isinstance(wanted, float) and isinstance(got, float):
            # Constants went through f32 on their way here.
            if not math.isclose(wanted, got, rel_tol=1e-6):
                return None
        elif wanted != got:
            return None
    return bound


def rewrite(graph: Graph, rules: Sequence[Rule], watch: Watch = _ignore) -> Graph:
    """Apply `rules` bottom-up, in one sweep. Returns `graph` itself when nothing changed.

    Rules are tried in order, and again on what they make, until none fits there. Whatever a rule makes
    without a location gets that of the value it replaces. `watch` sees every firing and refusal. Raises
    `CompilerBug` for rules that undo each other, and for one that changes a type.
    """
    sweep = _Sweep(graph, _prepare(rules), watch)
    for node in graph.nodes():
        sweep.settle(node)
    return graph.with_outputs(tuple(sweep.done[v] for _, v in graph.outputs))


class _Sweep:
    """`done` says what became of each value. `uses` counts the users of each value that is in the graph so
    far, in which settled values are below and the original ones above; of any other value it is 0."""

    def __init__(self, graph: Graph, rules: Mapping[str, Sequence[_Prepared]], watch: Watch) -> None:
        self.rules = rules
        self.watch = watch
        self.uses = use_counts(graph)
        self.done: dict[Value, Value] = {v: v for v in graph.inputs}

    def settle(self, node: Value) -> None:
        """Decide what becomes of `node`, whose arguments are settled, and of what rules make in its place."""
        # Without recursion: `made` remembers what is to stand for a value once that is settled itself.
        made: dict[Value, Value] = {}
        age: dict[Value, int] = {node: 0}
        stack = [node]
        while stack:
            value = stack[-1]
            if value in self.done:
                stack.pop()
            elif value in made:
                if made[value] in self.done:
                    self.done[value] = self.done[made[value]]
                else:
                    stack.append(made[value])
            elif unsettled := [a for a in value.args if a not in self.done]:
                age.update((a, age[value]) for a in unsettled if a not in age)
                stack.extend(reversed(unsettled))
            else:
                placed = self._placed(value, node.loc)
                new = self._fire(placed)
                if new is None:
                    self.done[value] = self.done[placed] = placed
                    continue
                made[value] = new
                age.setdefault(new, age[value] + 1)
                if age[new] > MAX_REWRITES_PER_NODE:
                    names = [p.rule.name for p in self.rules[placed.op.name]]
                    raise CompilerBug(f"rules undo each other at {placed.op.name} ({node.loc}): {names}")

    def _placed(self, value: Value, loc: str) -> Value:
        """`value` over settled arguments, and with a location."""
        args = tuple(self.done[a] for a in value.args)
        same = all(a is b for a, b in zip(args, value.args, strict=True))
        if same and (value.loc or value.is_leaf or not loc):
            return value
        new = replace(value, args=args, loc=value.loc or loc)
        # What used the old arguments has been counted as using the new ones since those were settled.
        self.uses[new] = self.uses.pop(value, 0)
        return new

    def _fire(self, node: Value) -> Value | None:
        """What the first rule that fits and does not refuse puts in the place of `node`."""
        for prepared in self.rules.get(node.op.name, ()):
            match = self._first_allowed(prepared, node)
            if match is None:
                continue
            name = prepared.rule.name
            try:
                new = prepared.rule.replacement(match)
            except TypeMismatch as error:
                raise CompilerBug(
                    f"{name} cannot be applied at {node.op.name} ({node.loc}): {error}"
                ) from error
            if new.type != node.type:
                raise CompilerBug(f"{name} changed the type at {node.loc}: {node.type} became {new.type}")
            self.watch(Event(name, node, inner=_covered(prepared, match), made=new))
            if not self._replace(node, new):
                raise CompilerBug(f"{name} keeps what it replaces, at {node.op.name} ({node.loc})")
            return new
        return None

    def _first_allowed(self, prepared: _Prepared, node: Value) -> Match | None:
        refused: tuple[str, Match] | None = None
        for bound in _match(prepared.pattern, node, {}, prepared):
            match = Match(node, self.uses)
            match.bound = bound
            refusal = prepared.rule.unless(match)
            if refusal is None:
                return match
            if refusal and refused is None:
                refused = refusal, match
        if refused is not None:
            reason, match = refused
            self.watch(Event(prepared.rule.name, node, reason, _covered(prepared, match)))
        return None

    # --- use counts: a value is in the graph while it has users, and only then uses its arguments --------

    def _replace(self, old: Value, new: Value) -> bool:
        """Move the users of `old` to `new`; False if `new` needs `old` itself."""
        users = self.uses.pop(old, 0)
        arrived = [(new, users)]
        while arrived:
            value, count = arrived.pop()
            if value is old:
                return False
            before = self.uses.get(value, 0)
            self.uses[value] = before + count
            if before == 0:
                arrived.extend((a, 1) for a in value.args)
        left = list(old.args)
        while left:
            value = left.pop()
            self.uses[value] -= 1
            if self.uses[value] == 0:
                left.extend(value.args)
        return True
