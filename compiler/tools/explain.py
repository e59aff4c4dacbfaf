"""What became of each node of a model: read from what import, passes and plan tell, changing none of them.

Values carry the name of the node they come from. A node is followed by that name: into the program as
imported, through the rules that took its values in, to the kernel calls of the plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.ir.graph import Program, Value
from isthmus.lowering.expressions import VIEWS
from isthmus.lowering.plan import Call, Plan, RowStage, Stage, UnitStage
from isthmus.lowering.views import Buffer
from isthmus.passes.pipeline import Step

MAX_PLACES = 6  # calls named for each node: a mask is read by every layer
CONSTANTS = ("weight", "full", "iota")

How: TypeAlias = Literal["computed", "inside", "view"]
Kind: TypeAlias = Literal[
    "unused", "known", "same", "computed", "inside", "view", "fused", "constant", "not needed"
]


class Imported(Protocol):
    """What a frontend says of a node: see `Imported` of the ONNX frontend."""

    @property
    def where(self) -> str: ...
    @property
    def op_type(self) -> str: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...
    @property
    def how(self) -> Literal["unused", "known", "same", "values"]: ...


@dataclass(frozen=True, slots=True)
class Place:
    """A kernel call: it computes the node, computes it inside something larger, or made what it is a view of.

    `stage` counts from 0; `layout` says where the result lies.
    """

    how: How
    op: str
    node: str
    type: str
    kernel: str
    stage: int
    stage_kind: str
    layout: str


@dataclass(frozen=True, slots=True)
class Took:
    """A rule put `node` in the place of what it matched."""

    rule: str
    node: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A rule that matched around the node and refused, and the node at which it was tried."""

    rule: str
    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one node."""

    node: str
    operator: str
    outputs: tuple[str, ...]
    kind: Kind
    took: tuple[Took, ...]  # for `fused`: the rules on the way to `places`
    places: tuple[Place, ...]
    rules: tuple[str, ...]  # that fired at the node
    refused: tuple[Refusal, ...]

    @property
    def text(self) -> str:
        """One line."""
        first = self.places[0] if self.places else None
        match self.kind:
            case "unused":
                return "unused: no output needs it"
            case "known":
                return "evaluated at import"
            case "same":
                return "hands on its input: nothing to do"
            case "constant":
                return "folded into a constant"
            case "fused":
                into = "a view of " if first is not None and first.how == "view" else ""
                rules = ", ".join(dict.fromkeys(took.rule for took in self.took))
                return f"fused into {into}{_named(first)}, by {rules}"
            case "computed":
                return f"computed as {_named(first)}"
            case "inside":
                return f"computed inside {_named(first)}"
            case "view":
                return f"costs nothing: a view of {_named(first)}"
        last = f" after {self.rules[-1]}" if self.rules else ""
        return f"not needed any more{last}"


def _named(place: Place | None) -> str:
    return (
        "nothing that is left" if place is None else f"{place.op} ({place.node})" if place.node else place.op
    )


def find(fates: Sequence[Fate], name: str) -> Fate:
    """The fate of the node called `name`, or of the node that computes the value of that name.

    Raises `ModelError` (bad-option) with the nearest name.
    """
    for fate in fates:
        if fate.node == name:
            return fate
    for fate in fates:
        if name in fate.outputs:
            return fate
    names = [*(f.node for f in fates), *(o for f in fates for o in f.outputs)]
    hint = nearest(name, names)
    if not hint.startswith("did you mean"):
        hint = "without NODE all of them are listed"
    raise ModelError(Problem(Code.BAD_OPTION, f"the model has no node called {name!r}", "NODE", hint))


def explain(
    nodes: Iterable[Imported], imported: Program, steps: Sequence[Step], fused: Program, plan: Plan
) -> tuple[Fate, ...]:
    """The fate of each of `nodes`, in the order given. `fused` is the program that `plan` was made from."""
    last = {node.where: node for node in nodes}
    history = _History(steps)
    where = _Places(fused, plan)
    made = {value.loc for value in imported.main.nodes()}
    return tuple(_fate(node, made, history, where) for node in last.values())


def _fate(node: Imported, made: set[str], history: _History, where: _Places) -> Fate:
    name = node.where
    kind, places, took = _outcome(node, name in made, history, where)
    rules = tuple(history.fired.get(name, {}))
    refused = tuple(history.refused.get(name, {}))
    return Fate(name, node.op_type, tuple(o for o in node.outputs if o), kind, took, places, rules, refused)


def _outcome(
    node: Imported, made: bool, history: _History, where: _Places
) -> tuple[Kind, tuple[Place, ...], tuple[Took, ...]]:
    name = node.where
    places = where.of(name)
    if places:
        return places[0].how, places, ()
    if not made:
        # Values that no user took: what they are, or how large, was all that was wanted of them.
        return "known" if node.how == "values" else node.how, (), ()
    took = history.path(name, where)
    if took:
        return "fused", where.of(took[-1].node), took
    if name in where.constants or "fold" in history.fired.get(name, {}):
        return "constant", (), ()
    return "not needed", (), ()


class _History:
    """What rules did, by the names of nodes."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.fired: dict[str, dict[str, None]] = {}
        self.refused: dict[str, dict[Refusal, None]] = {}
        self.took: dict[str, dict[Took, None]] = {}
        for event in (event for step in steps for event in step.events):
            at = event.at.loc
            covered = dict.fromkeys([at, *(v.loc for v in event.inner if not v.is_leaf)])
            if event.reason:
                refusal = Refusal(event.rule, at, event.reason)
                for name in covered:
                    self.refused.setdefault(name, {})[refusal] = None
                continue
            self.fired.setdefault(at, {})[event.rule] = None
            end = event.made.loc if event.made is not None and event.made.loc else at
            for name in covered:
                if name != end:
                    self.took.setdefault(name, {})[Took(event.rule, end)] = None
        self._drop_overcome()

    def _drop_overcome(self) -> None:
        """A rule that fired in the end, where it refused before, refused nothing."""
        for name, refusals in self.refused.items():
            kept = [r for r in refusals if r.rule not in self.fired.get(r.node, {})]
            self.refused[name] = dict.fromkeys(kept)

    def path(self, name: str, where: _Places) -> tuple[Took, ...]:
        """The shortest way by which rules took `name` to a node that is in the plan; empty if none did."""
        seen = {name}
        ways: list[tuple[Took, ...]] = [(took,) for took in self.took.get(name, {})]
        for way in ways:
            end = way[-1].node
            if where.of(end):
                return way
            if end not in seen:
                seen.add(end)
                ways.extend((*way, took) for took in self.took.get(end, {}))
        return ()


class _Places:
    """Where values of the last program are computed, by the names of nodes."""

    def __init__(self, fused: Program, plan: Plan) -> None:
        self.plan = plan
        self.users: dict[Value, list[Value]] = {}
        self.values: dict[str, list[Value]] = {}
        self.constants: set[str] = set()
        self.calls: dict[Value, list[tuple[int, Stage, Call]]] = {}
        for value in fused.main.nodes():
            for arg in value.args:
                self.users.setdefault(arg, []).append(value)
            if value.op.name in CONSTANTS:
                self.constants.add(value.loc)
            else:
                self.values.setdefault(value.loc, []).append(value)
        for number, stage in enumerate(plan.stages):
            for call in stage.calls:
                self.calls.setdefault(call.value, []).append((number, stage, call))
        self._of: dict[str, tuple[Place, ...]] = {}

    def of(self, name: str) -> tuple[Place, ...]:
        """The calls that concern the node called `name`: those that compute it first, views last."""
        if name not in self._of:
            found: dict[Place, None] = {}
            for value in self.values.get(name, ()):
                found.update(dict.fromkeys(self._places(value)))
            order: tuple[How, ...] = ("computed", "inside", "view")
            ranked = sorted(found, key=lambda place: order.index(place.how))
            self._of[name] = tuple(ranked[:MAX_PLACES])
        return self._of[name]

    def _places(self, value: Value) -> list[Place]:
        if value in self.calls:
            return [self._place("computed", found) for found in self.calls[value]]
        # Views are read in place, whatever they view; those of what is computed inside a nest are part of it.
        source = value
        while source.op.name in VIEWS:
            source = source.args[0]
        if source is not value and source.is_leaf:
            return [Place("view", source.op.name, source.loc, str(source.t), "", -1, "", "")]
        if source is not value and source in self.calls:
            return [self._place("view", self.calls[source][0])]
        return [self._place("inside", found) for found in self._carriers(value)]

    def _carriers(self, value: Value) -> list[tuple[int, Stage, Call]]:
        """The calls whose nests compute `value` on the way."""
        seen = {value}
        open_ = [value]
        found: list[tuple[int, Stage, Call]] = []
        for each in open_:
            for user in self.users.get(each, ()):
                if user in self.calls:
                    found.append(self.calls[user][0])
                elif user not in seen:
                    seen.add(user)
                    open_.append(user)
            if len(found) >= MAX_PLACES:
                break
        return list(dict.fromkeys(found))

    def _place(self, how: How, found: tuple[int, Stage, Call]) -> Place:
        number, stage, call = found
        value = call.value
        kind = {RowStage: "rows", UnitStage: "units"}.get(type(stage), "batch")
        layout = "" if call.writes is None else self._layout(call.writes)
        kernel = call.kernel.symbol
        return Place(how, value.op.name, value.loc, str(value.t), kernel, number, kind, layout)

    def _layout(self, buffer: Buffer) -> str:
        memory = self.plan.memory
        if buffer.place == "output":
            return f"output {buffer.name}"
        if buffer in memory.slot_of:
            return f"slot {memory.slot_of[buffer]}"
        for space in memory.blocks.values():
            if buffer in space.pitches:
                return f"block of its rows, {space.pitches[buffer]} elements each"
        return "memory of the thread"


def numbers(fates: Iterable[Fate]) -> Mapping[str, int]:
    """How many nodes met each kind of fate, the most frequent first."""
    counts: dict[str, int] = {}
    for fate in fates:
        counts[fate.kind] = counts.get(fate.kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -item[1]))
