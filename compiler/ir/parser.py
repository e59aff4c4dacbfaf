"""Reads the text form of programs (see printer.py). The text may have been edited, or come from anywhere.

    text   := "program" name ["origin" "=" word] "{" item* "}"  |  item*
    item   := "dim" NAME "=" INT ".." [INT]
            | "weight" "@"name ":" type ("=" elements | "sha256:" digest) ["at" word]
            | "graph" name "(" [input ("," input)*] ")" "{" value* "return" [output ("," output)*] "}"
    input  := "%"name ":" type ["at" word]
    value  := "%"id "=" op "(" [ref ("," ref)*] ")" (NAME "=" attribute)* ":" type ["at" word]
    output := name "=" ref

Nothing is evaluated, and depth and size are bounded. What is read is verified before it is returned.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.ir.dims import Dim, names
from isthmus.ir.graph import Attr, Graph, Kind, NamedDim, Op, Program, Value, graph_input, weight_value
from isthmus.ir.printer import PLAIN_NAME, PLAIN_WORD, elements_array, nan_bits
from isthmus.ir.read import INTEGER, NAME, Scanner, TextError, read_dim, read_dtype, read_type
from isthmus.ir.types import DType, TensorType
from isthmus.ir.verify import verify
from isthmus.ir.weights import InMemory, Source, Weight

T = TypeVar("T")

MAX_CHARACTERS = 1 << 26
MAX_ITEMS = 1 << 20

NUMBER = re.compile(
    r"[+-]?(?:(?:\d{1,400}\.?\d{0,400}|\.\d{1,400})(?:[eE][+-]?\d{1,4})?|inf)(?!\w)|nan(?!\w)"
)
NAN_BITS = re.compile(r"nan:0x([0-9a-f]{1,16})")
ELEMENT_INTEGER = re.compile(r"[+-]?\d{1,20}(?![\w.])")
BOUND = re.compile(r"\d{1,18}")
DIGEST = re.compile(r"sha256:([0-9a-f]{64})(?!\w)")
NUMBERED = re.compile(r"\d{1,9}(?![\w.])")


class WeightStore(Protocol):
    """Where the contents of weights that are not written out come from."""

    def find(self, digest: str, type_: TensorType) -> Source | None:
        """The bytes with this SHA-256, as many as `type_` needs, or None."""
        ...


class NoWeights:
    """A store without contents: text that names some cannot be read."""

    def find(self, digest: str, type_: TensorType) -> Source | None:
        return None


NO_WEIGHTS = NoWeights()


def parse_program(
    text: str, ops: Mapping[str, Op], weights: WeightStore = NO_WEIGHTS, where: str = "text"
) -> Program:
    """The program that `text` describes, made of `ops`. Graphs may stand alone; their dims are then free.

    Raises `ModelError` with `where:line:column` for what cannot be read or does not verify.
    """
    if len(text) > MAX_CHARACTERS:
        raise ModelError(Problem(Code.BAD_TEXT, f"the text has more than {MAX_CHARACTERS} characters", where))
    parser = _Parser(Scanner(text), ops, weights)
    try:
        program = parser.program()
    except TextError as error:
        parser.problems.append((error.position, error.message))
    if not parser.problems:
        diagnostics = verify(program)
        parser.problems += [(parser.places.get(d.at, 0), d.message) for d in diagnostics]
    if parser.problems:
        raise ModelError([parser.problem(where, *each) for each in parser.problems])
    return program


class _Parser:
    def __init__(self, scanner: Scanner, ops: Mapping[str, Op], store: WeightStore) -> None:
        self.scanner = scanner
        self.ops = ops
        self.store = store
        self.dims: list[NamedDim] = []
        self.weights: dict[str, Value] = {}
        self.graphs: list[Graph] = []
        self.places: dict[object, int] = {}
        self.problems: list[tuple[int, str]] = []

    def problem(self, where: str, position: int, message: str) -> Problem:
        line, column = self.scanner.place(position)
        return Problem(Code.BAD_TEXT, message, f"{where}:{line}:{column}")

    def program(self) -> Program:
        name, origin = "main", ""
        wrapped = self.scanner.word("program")
        if wrapped:
            name = self.name("the name of the program")
            if self.scanner.word("origin"):
                self.scanner.expect("=")
                origin = self.long_word("the digest of the model")
            self.scanner.expect("{")
        while not self.scanner.at_end and not self.scanner.sees("}"):
            self.item()
        if wrapped:
            self.scanner.expect("}")
        if not self.scanner.at_end:
            raise self.scanner.error("the end of the text")
        if not wrapped:
            self._declare_used()
        program = Program(name, tuple(self.graphs), tuple(self.dims), origin)
        self.places[program] = 0
        return program

    def _declare_used(self) -> None:
        shapes = [v.shape for graph in self.graphs for v in graph.inputs]
        used = dict.fromkeys(name for shape in shapes for dim in shape for name in sorted(names(dim)))
        declared = {d.name for d in self.dims}
        self.dims += [NamedDim(name) for name in used if name not in declared]

    def item(self) -> None:
        start = self.scanner.position
        if self.scanner.word("dim"):
            self.dim(start)
        elif self.scanner.word("weight"):
            self.weight(start)
        elif self.scanner.word("graph"):
            self.graph(start)
        else:
            raise self.scanner.error("dim, weight or graph")

    # --- words -------------------------------------------------------------------------------------

    def name(self, what: str) -> str:
        quoted = self.scanner.quoted()
        return self.scanner.need(PLAIN_NAME, what) if quoted is None else quoted

    def long_word(self, what: str) -> str:
        quoted = self.scanner.quoted()
        return self.scanner.need(PLAIN_WORD, what) if quoted is None else quoted

    def loc(self) -> str:
        return self.long_word("a place in the model") if self.scanner.word("at") else ""

    def identifier(self) -> str:
        """What stands after `%`; numbers and names do not collide."""
        self.scanner.expect("%", ", a value")
        number = self.scanner.take(NUMBERED)
        return f"#{int(number)}" if number is not None else f"%{self.name('the number or name of a value')}"

    def many(self, read: Callable[[], T], end: str) -> list[T]:
        """Items between commas, up to and including `end`."""
        found: list[T] = []
        while not self.scanner.skip(end):
            if found:
                self.scanner.expect(",", f" or '{end}'")
            found.append(read())
            if len(found) > MAX_ITEMS:
                raise TextError(f"a list has more than {MAX_ITEMS} items", self.scanner.position)
        return found

    # --- dims and weights --------------------------------------------------------------------------

    def dim(self, start: int) -> None:
        name = self.name("the name of a dim")
        self.scanner.expect("=")
        low = int(self.scanner.need(BOUND, "the lower bound"))
        self.scanner.expect("..", " between the bounds")
        high = self.scanner.take(BOUND)
        dim = NamedDim(name, low, None if high is None else int(high))
        self.places[dim] = start
        self.dims.append(dim)

    def weight(self, start: int) -> None:
        self.scanner.expect("@", ", a weight")
        name = self.name("the name of a weight")
        if name in self.weights:
            raise TextError(f"two weights are called {name!r}", start)
        self.scanner.expect(":")
        type_ = read_type(self.scanner)
        if not type_.is_static:
            raise TextError(f"a weight has no symbolic dims, this is {type_}", start)
        source = self.elements(type_) if self.scanner.skip("=") else self.stored(name, type_)
        value = weight_value(Weight(name, type_, source), self.loc())
        self.places[value] = start
        self.weights[name] = value

    def stored(self, name: str, type_: TensorType) -> Source:
        start = self.scanner.position
        if self.scanner.take(DIGEST) is None:
            raise self.scanner.error("'=' and elements, or sha256: and a digest")
        digest = self.scanner.text[start + len("sha256:") :][:64]
        source = self.store.find(digest, type_)
        if source is None:
            self.problems.append((start, f"there are no contents for the weight {name!r}"))
            return InMemory(b"")
        return source

    def elements(self, type_: TensorType) -> Source:
        start = self.scanner.position

        def element() -> bytes:
            return self.element(type_.dtype)

        single = type_.rank == 0
        if not single:
            self.scanner.expect("[", ", elements")
        found = [element()] if single else self.many(element, "]")
        if len(found) != type_.size:
            raise TextError(f"{type_} needs {type_.size} elements, there are {len(found)}", start)
        return InMemory(b"".join(found))

    def element(self, dtype: DType) -> bytes:
        if dtype is DType.BOOL:
            return bytes([self.truth()])
        start = self.scanner.position
        if dtype.is_float:
            if (bits := self.scanner.take(NAN_BITS)) is not None:
                return self.fitting(int(bits.removeprefix("nan:"), 16), dtype.bits, start)
            number = float(self.scanner.need(NUMBER, "a number"))
            if number != number:
                return nan_bits(dtype).to_bytes(dtype.bytes, "little")
            return elements_array([number], dtype).tobytes()
        integer = int(self.scanner.need(ELEMENT_INTEGER, "an integer"))
        return self.fitting(integer, dtype.bits, start, signed=dtype.value[0].startswith("i"))

    def fitting(self, integer: int, bits: int, start: int, signed: bool = False) -> bytes:
        try:
            return integer.to_bytes(bits // 8, "little", signed=signed)
        except OverflowError:
            raise TextError(f"{integer} does not fit {bits} bits", start) from None

    # --- graphs ------------------------------------------------------------------------------------

    def graph(self, start: int) -> None:
        name = self.name("the name of the graph")
        env: dict[str, Value] = {}
        self.scanner.expect("(", ", the inputs")
        inputs = tuple(self.many(lambda: self.input(env), ")"))
        self.scanner.expect("{")
        while not self.scanner.word("return"):
            self.value(env)
        outputs = self.many(lambda: self.output(env), "}")
        graph = Graph(name, inputs, tuple(outputs))
        self.places[graph] = start
        self.graphs.append(graph)

    def define(self, env: dict[str, Value], identifier: str, value: Value, start: int) -> None:
        if identifier in env:
            raise TextError(f"%{identifier[1:]} is defined twice", start)
        env[identifier] = value
        self.places[value] = start

    def input(self, env: dict[str, Value]) -> Value:
        start = self.scanner.position
        self.scanner.expect("%", ", an input")
        name = self.name("the name of an input")
        self.scanner.expect(":")
        type_ = read_type(self.scanner)
        loc = self.loc()
        value = graph_input(name, type_)
        if loc:
            value = Value(value.op, value.args, value.attrs, type_, loc)
        self.define(env, f"%{name}", value, start)
        return value

    def reference(self, env: Mapping[str, Value]) -> Value:
        start = self.scanner.position
        if self.scanner.skip("@"):
            name = self.name("the name of a weight")
            if name not in self.weights:
                raise TextError(f"no weight is called {name!r}; {nearest(name, self.weights)}", start)
            return self.weights[name]
        identifier = self.identifier()
        if identifier not in env:
            raise TextError(f"%{identifier[1:]} is not defined before it is used", start)
        return env[identifier]

    def output(self, env: Mapping[str, Value]) -> tuple[str, Value]:
        name = self.name("the name of an output")
        self.scanner.expect("=")
        return name, self.reference(env)

    def value(self, env: dict[str, Value]) -> None:
        start = self.scanner.position
        if not self.scanner.sees("%"):
            raise self.scanner.error("a value or return")
        identifier = self.identifier()
        self.scanner.expect("=")
        at = self.scanner.position
        op_name = self.scanner.need(NAME, "the name of an op")
        if op_name not in self.ops:
            raise TextError(f"no op is called {op_name!r}; {nearest(op_name, self.ops)}", at)
        op = self.ops[op_name]
        self.scanner.expect("(", ", the arguments")
        args = tuple(self.many(lambda: self.reference(env), ")"))
        attrs = self.attributes(op)
        self.scanner.expect(":", " and a type, or an attribute")
        type_ = read_type(self.scanner)
        value = Value(op, args, tuple(sorted(attrs.items())), type_, self.loc())
        self.define(env, identifier, value, start)

    def attributes(self, op: Op) -> dict[str, Attr]:
        given: dict[str, Attr] = {}
        while not self.scanner.sees(":"):
            start = self.scanner.position
            name = self.scanner.need(NAME, "an attribute, or ':' and a type")
            if name not in op.attrs:
                raise TextError(f"{op.name} has no attribute {name!r}; {nearest(name, op.attrs)}", start)
            if name in given:
                raise TextError(f"the attribute {name!r} is given twice", start)
            self.scanner.expect("=")
            given[name] = self.attribute(op.attrs[name])
        attrs = {**op.defaults, **given}
        if missing := sorted(op.attrs.keys() - attrs.keys()):
            raise TextError(f"{op.name} needs the attributes {', '.join(missing)}", self.scanner.position)
        return attrs

    def attribute(self, kind: Kind) -> Attr:
        match kind:
            case Kind.INT:
                return int(self.scanner.need(INTEGER, "an integer"))
            case Kind.INTS:
                self.scanner.expect("[", ", integers")
                return tuple(self.many(lambda: int(self.scanner.need(INTEGER, "an integer")), "]"))
            case Kind.DIMS:
                self.scanner.expect("[", ", dims")
                dims: list[Dim] = self.many(lambda: read_dim(self.scanner), "]")
                return tuple(dims)
            case Kind.FLOAT:
                return float(self.scanner.need(NUMBER, "a number"))
            case Kind.BOOL:
                return self.truth()
            case Kind.DTYPE:
                return read_dtype(self.scanner)
            case Kind.TEXT:
                quoted = self.scanner.quoted()
                if quoted is None:
                    raise self.scanner.error("a quoted text")
                return quoted
            case Kind.WEIGHT:
                raise TextError(
                    "a weight is no attribute; it is an argument, as @name", self.scanner.position
                )

    def truth(self) -> bool:
        start = self.scanner.position
        word = self.scanner.take(NAME)
        if word not in ("true", "false"):
            raise TextError(f"expected true or false, found {word!r}", start)
        return word == "true"
