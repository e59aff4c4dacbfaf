"""What a chip can say about itself. No chip is named here; see `targets/`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

from isthmus.machine import Machine
from isthmus.systems import Toolchain

ByteOrder: TypeAlias = Literal["little", "big"]
KernelForm: TypeAlias = Literal["llvm", "c"]


@dataclass(frozen=True, slots=True)
class VectorUnit:
    """The vector registers: their width in bits, their number, and whether a*b+c is one instruction.

    `relaxed`: that instruction may round once or twice, as whoever runs it likes. `flushes`: subnormal
    numbers are zeros to it. `group`: instructions may take so many registers as one.
    """

    bits: int
    registers: int
    fma: bool
    relaxed: bool = False
    flushes: bool = False
    group: int = 1

    def lanes(self, element_bits: int = 32) -> int:
        """Elements of `element_bits` bits in one register; one of 32 bits holds one of anything."""
        return 1 if self.bits == 32 else self.bits // element_bits


def gemm_tile(vector: VectorUnit) -> tuple[int, int]:
    """Rows and vectors of the register tile of a matrix product.

    rows * vectors accumulators, one row of weights and one broadcast must fit the registers; the tile is as
    near to a square as that allows, which needs the fewest loads per multiplication. The
    vectors of a row are a group where there are groups.
    """
    rows, vectors = (8, 3) if vector.registers >= 32 else (6, 2)
    return (rows, vectors) if vector.group == 1 else (rows * vectors // vector.group, vector.group)


def panel_width(vector: VectorUnit) -> int:
    """Columns of a panel of packed f32 weights."""
    return gemm_tile(vector)[1] * vector.lanes(32)


# Neighbours of K in packed weights of bytes, where no instruction reads more at once.
BYTES_IN_WORD = 4

# Columns of a panel whose products are made in tiles: two of them.
TILE_COLUMNS = 32


def sparse_vectors(vector: VectorUnit, outputs: int) -> int:
    """Vectors of rows in a tile of activations that a product with a sparse matrix reads.

    With more of them fewer loads come to a multiplication; the sums of `outputs` columns at a time, a line of
    the tile and a number have to fit the registers.
    """
    return max(1, min(4, (vector.registers - 6) // outputs))


# Bytes of such a tile: measured, a little more than the nearest cache is better than less.
SPARSE_TILE_BYTES = 48 << 10


def sparse_window(vector: VectorUnit, outputs: int, inputs: int, depth: int) -> int:
    """Rows of the matrix that one tile serves, whole blocks of `inputs`: windows of nearly one size."""
    line = 4 * sparse_vectors(vector, outputs) * vector.lanes(32)
    windows = -(-depth // (SPARSE_TILE_BYTES // line))
    return -(-depth // windows // inputs) * inputs if depth else inputs


@dataclass(frozen=True, slots=True)
class Caches:
    """Data caches of one core, in bytes."""

    l1_bytes: int
    l2_bytes: int
    line_bytes: int = 64


@dataclass(frozen=True, slots=True)
class Runner:
    """How a program made for a chip is run on a machine that is none: by an emulator.

    `command` stands before the program's path; its first word is looked up in PATH. `files`, and `modules` of
    this Python, have to be there as well. `package` is what to install when something is missing, for people
    to read. `script` is, for a machine without a system, the linker script of programs, which are told no
    arguments. `version` is the least major version, asked of `command[0] --version`.
    """

    name: str
    command: tuple[str, ...]
    package: str
    files: tuple[str, ...] = ()
    version: int = 0
    modules: tuple[str, ...] = ()
    script: str = field(default="", repr=False)

    def missing(self) -> tuple[str, ...]:
        """What has to be installed first; empty when programs can be run."""
        path = shutil.which(self.command[0])
        lacking = [] if path else [self.command[0]]
        if path and self.version and major_version(path) < self.version:
            lacking = [f"{self.command[0]} {self.version} or later"]
        lacking += [file for file in self.files if not Path(file).exists()]
        return (*lacking, *(module for module in self.modules if find_spec(module) is None))


def qemu_user(arch: str, cpu: str, triple: str, package: str, loader: str) -> Runner:
    """qemu-user as `cpu`, with the C library that Debian's `package` puts below /usr/`triple`."""
    root = f"/usr/{triple}"
    return Runner(
        f"qemu-{arch}",
        (f"qemu-{arch}", "-cpu", cpu, "-L", root),
        f"qemu-user, {package}",
        (f"{root}/lib/{loader}",),
    )


@cache
def major_version(program: str) -> int:
    """The first number that `program --version` tells as its version; 0 if it tells none."""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=60)
    found = re.search(r"version (\d+)", done.stdout)
    return int(found[1]) if found else 0


@dataclass(frozen=True, slots=True)
class Routine:
    """A C function that the chip brings and that computes an op in the place of our kernels.

    It takes over `op` wherever the arguments' element types are `takes` and the result's is `gives`:

        void symbol(const A *a, const B *b, .., R *result, const int64_t *sizes, int64_t begin, int64_t end)

    Arguments and result lie in row order without gaps. `sizes` has for each argument its rank, then its dims.
    It computes the rows begin..end-1 of the result (a row is the last axis); several threads call it, each
    for rows of its own. `source` is the C text that defines it: C11, without the standard library but
    <stdint.h>, static functions only besides `symbol`. Routines may share one source.
    """

    op: str
    takes: tuple[str, ...]
    gives: str
    symbol: str
    source: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.op}({', '.join(self.takes)}) -> {self.gives} by {self.symbol}"


@dataclass(frozen=True, slots=True)
class Tiles:
    """Registers that hold matrices: 8 of 16 rows of 64 bytes, f32 sums of products of two of them.

    `products` are types of elements with the LLVM intrinsic c += a b: a is rows x (words of K), b (words of
    K) x 16 columns. The others are the intrinsics that set up and give back the tiles, zero, load and store
    one. `guard` takes the place of the target's where tiles are used: it asks the system for them as well.
    """

    products: tuple[tuple[str, str], ...]
    configure: str
    release: str
    zero: str
    load: str
    store: str
    guard: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ByteProducts:
    """The instruction that multiplies bytes and sums in i32, as an LLVM intrinsic over whole registers.

    With `neighbours` = 4 it is `sums(sums, x, w)`: four products of neighbouring bytes are added to each sum,
    w signed, x signed or `unsigned`. With 8 it is the same over registers of 16 bytes, of which x holds two
    rows of eight and w two columns of eight: sums are those of both columns in the first row, then in the
    second; `quads` is then the instruction for words of four, if there is one. With 2 it is `sums(x, w)`: two
    products of neighbouring numbers of 16 bits, to which bytes are widened; such rows are unsigned. With 1 no
    intrinsic has to be named: sums + x * w, of numbers of 16 bits and one x for all w, is one instruction.
    `narrower` are the same for registers with fewer sums, each with their number.
    """

    intrinsic: str
    neighbours: int
    unsigned: bool
    quads: str = ""
    narrower: tuple[tuple[int, str], ...] = ()

    def of_lanes(self, lanes: int) -> str:
        """The intrinsic for registers of so many sums."""
        return dict(self.narrower).get(lanes, self.intrinsic)

    @property
    def of_words(self) -> ByteProducts | None:
        """The instruction for words of four: this one, or the one beside it."""
        if self.neighbours == BYTES_IN_WORD:
            return self
        return ByteProducts(self.quads, BYTES_IN_WORD, self.unsigned) if self.quads else None

    @property
    def word(self) -> int:
        """Neighbours of K that lie together in packed weights: bytes of a column that are read at once."""
        return max(self.neighbours, BYTES_IN_WORD)


def lookup_bytes(intrinsic: str, count: int) -> tuple[tuple[str, str], ...]:
    """For `Target.instructions`: `lookup_bytes` for registers of `count` bytes by `intrinsic(table, codes)`,
    which looks each 16 codes up in 16 bytes of their own."""
    halves = ", ".join("i32 0, i32 1" for _ in range(count // 16))
    vector, words = f"<{count} x i8>", f"<{count // 8} x i64>"
    text = f"""\
define linkonce_odr {vector} @isthmus_lookup_bytes(i64 %low, i64 %high, {vector} %codes) alwaysinline {{
  %l = insertelement <2 x i64> poison, i64 %low, i32 0
  %h = insertelement <2 x i64> %l, i64 %high, i32 1
  %w = shufflevector <2 x i64> %h, <2 x i64> poison, <{count // 8} x i32> <{halves}>
  %t = bitcast {words} %w to {vector}
  %r = call {vector} @{intrinsic}({vector} %t, {vector} %codes)
  ret {vector} %r
}}
declare {vector} @{intrinsic}({vector}, {vector})
"""
    return (("lookup_bytes", text),)


def own_jump_tables(least: int) -> dict[str, list[str]]:
    """For `Target.tvm` of an architecture whose LLVM backend sets, for the whole process, how many cases make
    a table of jumps: the number that it sets. TVM puts back what was there, so that the code for other chips
    does not depend on what was compiled before."""
    return {"cl-opt": [f"-min-jump-table-entries:uint={least}"]}


# What executes code of a chip that the machine at hand is; any other word is a runner's name.
NATIVE = "native"

NO_CHECK = "static const char *isthmus_machine_check(void) { return 0; }\n"


# What passes and the choice of kernels never ask for.
OTHER_TRAITS = (
    "name", "description", "arch", "features", "tvm", "caches", "toolchain", "cpu_flags", "guard",
    "runners", "levels", "suffix",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """One chip, as data. Kernels, passes and the plan ask for what it has, never for its name.

    `tvm` is the dictionary TVM's target parser takes. `features` say what code for it may rely on, in the
    words of its makers. `cpu_flags` are the flags (spelt as Linux spells them) a machine must have to run
    the code. `guard` is C source of `static const char *isthmus_machine_check(void)`, which returns NULL or
    why this machine will not do. Each of `runners` runs bundles where the machine at hand is another one, the
    one to prefer first.

    `levels`, where there are any, are the chips of one family, best first, that a library for this one
    carries code for; it takes the first that the machine can run, and everything else said here is about the
    last. `suffix` ends the names of kernels, so that those of several levels fit one library.

    `kernels`: made by LLVM, or C source, which has one lane and which the bundle holds for any compiler.
    `routines` are C functions of the chip's own that compute ops. `byte_products` is the instruction for
    products of bytes; None: they are multiplied as other integers. `instructions` are names with the text of
    an LLVM function `isthmus_<name>`, always inlined, for what the builder cannot say:

        dot_bf16(<16 x float> sums, <16 x i32> a, <16 x i32> b): sums + the products of two bf16 in each word
        round_bf16(<16 x float>) -> <16 x i16>, and round_two_bf16(<16 x float> high, <16 x float> low) ->
        <32 x i16>: to bf16, nearest even
        widen_f16(<16 x i16>) -> <16 x float>: from f16
        expand_bytes(<32 x i8>, i64 mask) -> <64 x i8>: the bytes one after the other where the mask has ones,
        from its lowest bit on, and 0 elsewhere
        expand_words(<16 x i32>, i16 mask) -> <16 x i32>: the same with words, and
        choose_words(<16 x float> a, <16 x float> b, i16 mask): a where the mask has ones, b elsewhere
        add_pairs(<4 x i32> sums, <8 x i16> products): sums + the sums of two neighbouring products each; used
        where there are no `byte_products`
        lookup_bytes(i64 low, i64 high, <64 x i8> codes) -> <64 x i8>: for codes 0 to 15 those of the 16 bytes
        multiply_bytes(<32 x i8> a, <32 x i8> b) -> <16 x i16>: the sums of two neighbouring products each, a
        unsigned and less than 128; used where `byte_products` have 2 neighbours

    (for the lanes of the chip at hand). `tiles`, if it has matrix registers.
    """

    name: str
    description: str
    arch: str
    features: tuple[str, ...]
    tvm: Mapping[str, object]
    vector: VectorUnit
    caches: Caches
    toolchain: Toolchain
    cpu_flags: tuple[str, ...] = ()
    guard: str = field(default=NO_CHECK, repr=False)
    byte_order: ByteOrder = "little"
    runners: tuple[Runner, ...] = ()
    levels: tuple[Target, ...] = ()
    suffix: str = ""
    kernels: KernelForm = "llvm"
    routines: tuple[Routine, ...] = ()
    byte_products: ByteProducts | None = None
    instructions: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    tiles: Tiles | None = None

    def multiplies_in_tiles(self, element: str) -> bool:
        """Whether tiles take elements of that type."""
        return self.tiles is not None and element in dict(self.tiles.products)

    @property
    def multiplies_bf16(self) -> bool:
        """Whether tiles or an instruction take pairs of bf16."""
        return self.multiplies_in_tiles("bf16") or self.instruction("dot_bf16") is not None

    def instruction(self, name: str) -> str | None:
        """The text of an LLVM function among `instructions`."""
        return dict(self.instructions).get(name)

    @property
    def expands_bytes(self) -> bool:
        """Whether products of bytes take matrices of which two of four bytes are stored."""
        products = self.byte_products
        words = products is not None and products.neighbours == BYTES_IN_WORD and products.unsigned
        return words and self.instruction("expand_bytes") is not None

    def reads_masks(self, outputs: int, words: int) -> bool:
        """Whether few rows are multiplied by masks, where sparse blocks are so many outputs by words."""
        return outputs == words == 1 and self.instruction("expand_words") is not None

    def narrow_width(self, element: str) -> int:
        """Columns of a panel of weights with elements narrower than f32."""
        return TILE_COLUMNS if self.multiplies_in_tiles(element) else panel_width(self.vector)

    def routine(self, op: str, takes: Sequence[str], gives: str) -> Routine | None:
        """The chip's own function for `op` of these element types, if it has one."""
        wanted = (op, tuple(takes), gives)
        return next((r for r in self.routines if (r.op, r.takes, r.gives) == wanted), None)

    @property
    def byte_word(self) -> int:
        """Neighbours of K that lie together in packed weights of products of bytes."""
        return self.byte_products.word if self.byte_products is not None else BYTES_IN_WORD

    @property
    def unsigned_bytes(self) -> bool:
        """Whether rows of bytes are unsigned where they are multiplied."""
        return self.byte_products is not None and self.byte_products.unsigned

    @property
    def os(self) -> str:
        """The operating system, as `Machine.os` says it."""
        return self.toolchain.system.name

    def symbol(self, name: str) -> str:
        """The C symbol of the kernel called `name`."""
        return f"{name}{self.suffix}"

    @property
    def kernel_traits(self) -> tuple[object, ...]:
        """What decides about passes and kernels: chips that agree on it run the same kernels, each on code of
        its own. Only how many rows a stage takes at a time, and where they lie, depends on caches as well."""
        return tuple(getattr(self, f.name) for f in fields(self) if f.name not in OTHER_TRAITS)

    def missing_on(self, machine: Machine) -> tuple[str, ...]:
        """What `machine` lacks to run this target's code; empty when it can."""
        lacking = [
            f"{what} {wanted}"
            for what, wanted, has in (("arch", self.arch, machine.arch), ("os", self.os, machine.os))
            if wanted != has
        ]
        return (*lacking, *(flag for flag in self.cpu_flags if flag not in machine.cpu_flags))

    def executor(self, machine: Machine) -> str | None:
        """What executes this target's code on `machine`: itself (`NATIVE`) or the first runner there is."""
        if not self.missing_on(machine):
            return NATIVE
        return next((runner.name for runner in self.runners if not runner.missing()), None)
