"""`attention_few` on bf16, by an instruction that multiplies pairs: half of the memory is read.

Scores are sums over pairs of neighbours along a head, as they lie. Of V two rows are read at once and their
elements taken in turns, which is what pairs of powers are multiplied by: within blocks of 16 bytes, so that
columns are put in order once, in the result.
"""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.kernels.arithmetic import rounded_pair
from isthmus.kernels.attention_few import softmax, write_scores
from isthmus.kernels.attention_pairs import line_of, words_of
from isthmus.kernels.attention_shape import PAIR, Shape
from isthmus.kernels.builder import Builder, Expr, Memory, Register, vector_type
from isthmus.kernels.tir import tirx

# Vectors of V's columns that are summed at once, and pairs of rows side by side.
VALUE_LINES, VALUE_PAIRS = 4, 2
# Elements within which two rows are taken in turns: 16 bytes.
BLOCK = 8


def few_query_pairs(
    k: Builder,
    shape: Shape,
    q: Memory,
    keys: tuple[Memory, Expr],
    values: tuple[Memory, Expr],
    mask: Memory | None,
    scores: Memory,
    powers: Memory,
    out: Memory,
    seen: Expr,
    scale: Expr,
    safe: bool,
) -> None:
    """out = softmax(q k^T * scale + mask) v over the first `seen` keys. q is words, zeros behind them; keys
    and values are bf16 and come with the distance between their rows; `scores` has room for `seen` and two
    vectors more, `powers` (bf16) for as many elements."""
    _scores(k, shape, q, *keys, mask, scores, seen, scale)
    inverse = softmax(k, scores, seen, safe)
    _round(k, scores, powers, seen)
    _values(k, shape, *values, powers, out, seen, inverse)


def _dot(k: Builder, register: Register, a: Expr, b: Expr) -> None:
    register.set(k.helper(vector_type("float32", register.lanes), "dot_bf16", register.value, a, b))


def _scores(
    k: Builder,
    shape: Shape,
    q: Memory,
    source: Memory,
    pitch: Expr,
    mask: Memory | None,
    out: Memory,
    seen: Expr,
    scale: Expr,
) -> None:
    lanes = shape.lanes

    def dots(first: Expr, count: int) -> list[Expr]:
        rows = [source.at((first + j) * pitch, "k_row") for j in range(count)]
        sums = [k.register(f"dot{j}", lanes, 0.0) for j in range(count)]
        for word in range(0, shape.words, lanes):
            factors = k.let("factors", k.bits(q.load(word, lanes), "int32"))
            for row, register in zip(rows, sums, strict=True):
                _dot(k, register, factors, words_of(k, row, word * PAIR, shape.width))
        return [k.let("dot", register.value) for register in sums]

    write_scores(k, dots, lanes, mask, out, seen, scale)


def _round(k: Builder, scores: Memory, powers: Memory, seen: Expr) -> None:
    """The powers in bf16, and zeros behind them up to a whole vector."""
    line = PAIR * k.lanes
    for half in range(PAIR):
        scores.store(seen + half * k.lanes, 0.0, k.lanes)
    with k.loop("jb", 0, k.divide_up(seen, line)) as jb:
        halves = [scores.load(jb * line + half * k.lanes, k.lanes) for half in range(PAIR)]
        powers.store(jb * line, rounded_pair(k, *halves))


def _values(
    k: Builder,
    shape: Shape,
    source: Memory,
    pitch: Expr,
    powers: Memory,
    out: Memory,
    seen: Expr,
    inverse: Expr,
) -> None:
    line = PAIR * k.lanes
    starts = range(0, shape.value_width, line)
    for i in range(0, len(starts), VALUE_LINES):
        columns = starts[i : i + VALUE_LINES]
        for start, total in zip(columns, _sums(k, shape, source, pitch, powers, seen, columns), strict=True):
            result = rounded_pair(k, *(k.let("value", half * k.spread(inverse, k.lanes)) for half in total))
            store_line(k, out, start, k.let("rounded", result), min(line, shape.value_width - start))


def _sums(
    k: Builder,
    shape: Shape,
    source: Memory,
    pitch: Expr,
    powers: Memory,
    seen: Expr,
    columns: Sequence[int],
) -> list[list[Expr]]:
    """powers v for each line of `columns`, in two vectors."""
    line = PAIR * k.lanes
    sums = [
        [
            [k.register(f"sum{r}_{i}_{half}", k.lanes, 0.0) for half in range(PAIR)]
            for i in range(len(columns))
        ]
        for r in range(VALUE_PAIRS)
    ]

    def add(first: Expr, r: int, rows: int = PAIR) -> None:
        memory = [source.at((first + i) * pitch, "v_row") for i in range(rows)]
        word = tirx.reinterpret("int32", powers.load(first, PAIR))
        factor = k.let("factor", k.spread(word, k.lanes, "int32"))
        for start, registers in zip(columns, sums[r], strict=True):
            lines = [line_of(k, row, start, shape.value_width, line) for row in memory]
            # A last row without another meets a power of 0, and zeros.
            pair = [*lines, *[k.constant(0, lines[0])] * (PAIR - rows)]
            pair = [k.let("line", each) for each in pair]
            for half, register in enumerate(registers):
                words = tirx.reinterpret(vector_type("int32", k.lanes), _in_turns(k, pair, half))
                _dot(k, register, factor, words)

    step = PAIR * VALUE_PAIRS
    whole = k.let("whole_rows", k.divide(seen, step))
    with k.loop("jb", 0, whole) as jb:
        for r in range(VALUE_PAIRS):
            add(k.let("j", jb * step + r * PAIR), r)
    pairs = k.let("pairs", k.divide(seen, PAIR))
    with k.loop("pair", whole * VALUE_PAIRS, pairs) as pair:
        add(k.let("j", pair * PAIR), 0)
    with k.when(pairs * PAIR < seen):
        add(k.let("j", pairs * PAIR), 0, 1)
    return [_ordered(k, [row[i] for row in sums]) for i in range(len(columns))]


def _in_turns(k: Builder, pair: Sequence[Expr], half: int) -> Expr:
    """Elements of two rows in turns: of each block the first half of its columns, or the second."""
    line, each = PAIR * k.lanes, BLOCK // PAIR
    columns = [block + half * each + i for block in range(0, line, BLOCK) for i in range(each)]
    return k.shuffle(pair, [row * line + column for column in columns for row in range(PAIR)])


def _ordered(k: Builder, rows: Sequence[Sequence[Register]]) -> list[Expr]:
    """The sums of all `rows`, columns in order."""
    halves = [rows[0][half].value for half in range(PAIR)]
    for row in rows[1:]:
        halves = [total + register.value for total, register in zip(halves, row, strict=True)]
    halves = [k.let("half", total) for total in halves]
    each = BLOCK // PAIR
    lane_of = [(c % BLOCK // each) * k.lanes + c // BLOCK * each + c % each for c in range(PAIR * k.lanes)]
    return [
        k.let("ordered", k.shuffle(halves, lane_of[start : start + k.lanes]))
        for start in range(0, PAIR * k.lanes, k.lanes)
    ]


def store_line(k: Builder, out: Memory, start: int, line: Expr, width: int) -> None:
    """The first `width` elements of a vector, in as few vectors as there are ones in the number."""
    place, size = 0, PAIR * k.lanes
    while size:
        if width & size:
            part = line if size == PAIR * k.lanes else k.shuffle([line], range(place, place + size))
            out.store(start + place, part)
            place += size
        size //= 2
