"""What a user can ask of quantization, as data: `isthmus.Quantization`, and the names of `--precision`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, TypeAlias, get_args

from isthmus.errors import Code, ModelError, Problem, nearest
from isthmus.passes.quantize.bf16 import FLOATS

Bits: TypeAlias = Literal[8, 4]
Activations: TypeAlias = Literal["float", "dynamic", "static"]
Method: TypeAlias = Literal["round", "gptq", "awq"]
Attention: TypeAlias = Literal["int8", "bf16", "f32"]
Floats: TypeAlias = Literal["f32", "bf16", "f16"]
Format: TypeAlias = Literal["integer", "fp8-e4m3", "fp8-e5m2", "mxfp8", "mxfp4", "nvfp4"]
Observer: TypeAlias = Literal["minmax", "percentile", "mse", "entropy"]

GROUPS = (32, 64, 128)


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one product computes: integers of `bits` for its matrix, and what becomes of its rows.

    `group`: that many elements of a column share a scale, in f16; 0: a whole column does, in f32.
    `activations`: float, or integers of 8 bits with a scale for each row found at run time (dynamic) or
    with one from calibration (static). `symmetric`: no zero points, of the matrix and of static rows. (A
    matrix in whole columns has none where rows are integers: sums of bytes know none.)
    `format`: integers, or floats. In 8 bits E4M3 or E5M2 with scales like those of integers (fp8-e4m3,
    fp8-e5m2), or E4M3 with powers of two (mxfp8, in groups of 32). In 4 bits E2M1 with powers of two (mxfp4,
    of 32), or with scales that are E4M3 times a power of two for the whole matrix (nvfp4, of 16).
    """

    bits: Bits = 8
    group: int = 0
    activations: Activations = "float"
    symmetric: bool = True
    format: Format = "integer"

    @property
    def has_zero_points(self) -> bool:
        """Whether the matrix has any."""
        return not self.symmetric and (self.activations == "float" or self.group > 0)

    def __str__(self) -> str:
        if self.format != "integer":
            usual = SCHEMES.get(self.format)
            group = "" if usual is not None and usual.group == self.group else f"-g{self.group}"
            return f"{self.format}{group}-a{self.activations}"
        group = f"-g{self.group}" if self.group else ""
        return f"w{self.bits}{group}-a{self.activations}{'' if self.symmetric else '-asymmetric'}"


# `--precision NAME`: how every product that is not protected computes; None: as the model says.
SCHEMES: Mapping[str, Scheme | None] = {
    "f32": None,
    "int8": Scheme(activations="dynamic"),
    # Rows after GELU reach much further up than down: a zero point is worth a bit.
    "int8-static": Scheme(activations="static", symmetric=False),
    "int8-weights": Scheme(),
    **{f"int8-g{group}": Scheme(group=group) for group in GROUPS},
    "int4": Scheme(4, group=32),
    **{f"int4-g{group}": Scheme(4, group=group) for group in GROUPS},
    "int4-dynamic": Scheme(4, group=32, activations="dynamic"),
    # The range of floats makes up for what few scales cannot follow.
    "fp8-e4m3": Scheme(group=128, format="fp8-e4m3"),
    "fp8-e5m2": Scheme(group=128, format="fp8-e5m2"),
    "mxfp8": Scheme(group=32, format="mxfp8"),
    "mxfp4": Scheme(4, group=32, format="mxfp4"),
    "nvfp4": Scheme(4, group=16, format="nvfp4"),
}

# `--precision NAME+FLOATS`: the same, and the rest of the model as `--precision FLOATS` has it.
WITH_FLOATS = tuple(
    f"{name}+{floats}"
    for name, scheme in SCHEMES.items()
    if scheme is not None and scheme.activations == "float"
    for floats in FLOATS
)


@dataclass(frozen=True, slots=True)
class Quantization:
    """How a model is quantized.

    `scheme` is a `Scheme` or a name (`int8`, `int8-static`, `int4-g64`, ..) for every product with a constant
    matrix; `layers` gives others by patterns of layer names ("*attention*": "f32"), the last that fits wins.
    Unless `protect` is off, products with the model's inputs (patches) and those that are its outputs (heads,
    poolers) stay as they are where no pattern names them; tables of embeddings, norms and softmax always do.

    `method` chooses the integers of the matrix: by default GPTQ where there is calibration data, else
    rounding; AWQ is for float rows. `smooth` moves outliers of the rows into the matrix: by default, static
    rows have theirs found and moved; a number is the strength of SmoothQuant for all rows in integers, 0
    leaves them. Where nothing is moved, `observer` chooses the range of static rows. `correct_bias` takes the
    mean error of a product out of its bias; by default, where rows are static. `equalize` evens out the
    channels between two products that have only ReLU between them. But for it and rounding, all needs data.
    Where rows are integers, attention multiplies bytes as well on chips with an instruction for words of
    four, else rounds to bf16 where there is one for pairs (not in tiles yet); `attention` may allow only
    "bf16", or "f32", which rounds nothing.

    `floats`, where all rows are floats: what rows beside quantized matrices are rounded to (sums stay f32),
    and as what `--precision bf16` or `f16` the layers that are not quantized compute. In f16 a number of a
    row beyond 65504 is infinite.
    """

    scheme: Scheme | str = "int8"
    layers: Mapping[str, Scheme | str] = field(default_factory=dict)
    method: Method | None = None
    observer: Observer = "mse"
    smooth: float | None = None
    correct_bias: bool | None = None
    equalize: bool = False
    protect: bool = True
    attention: Attention = "int8"
    floats: Floats = "f32"

    def __post_init__(self) -> None:
        problems = [
            *(_scheme_problem(scheme) for scheme in (self.scheme, *self.layers.values())),
            None if self.method is None else _choice_problem("method", self.method, get_args(Method)),
            _choice_problem("observer", self.observer, get_args(Observer)),
            _choice_problem("attention", self.attention, get_args(Attention)),
            _choice_problem("floats", self.floats, get_args(Floats)),
            None
            if self.smooth is None or 0 <= self.smooth <= 1
            else Problem(Code.BAD_OPTION, f"smooth={self.smooth} is not between 0 and 1", "Quantization"),
        ]
        if found := [problem for problem in problems if problem is not None]:
            raise ModelError(found)
        if (problem := self._floats_problem()) is not None:
            raise ModelError(problem)

    def _floats_problem(self) -> Problem | None:
        """What is wrong with floats of 16 bits beside these schemes."""
        if self.floats == "f32":
            return None
        asked = (self.scheme, *self.layers.values())
        schemes = {str(scheme): found for scheme in asked if (found := resolved(scheme)) is not None}
        integers = [name for name, scheme in schemes.items() if scheme.activations != "float"]
        if schemes and not integers:
            return None
        beside = f"rows that are integers ({', '.join(integers)})" if integers else "no quantized matrix"
        hint = f"{self.floats} is for rows of floats, as of int4, or by itself for a whole model"
        return Problem(Code.BAD_OPTION, f"floats={self.floats!r} beside {beside}", "Quantization", hint)

    def wanted(self, layer: str) -> Scheme | None:
        """The scheme of the layer called `layer`, protection aside; None: float."""
        found = [scheme for pattern, scheme in self.layers.items() if fnmatchcase(layer, pattern)]
        return resolved(found[-1] if found else self.scheme)

    def names(self, layer: str) -> bool:
        """Whether a pattern is about `layer`."""
        return any(fnmatchcase(layer, pattern) for pattern in self.layers)

    @property
    def needs_data(self) -> str | None:
        """What of this cannot be done without calibration data, if anything."""
        schemes = [resolved(scheme) for scheme in (self.scheme, *self.layers.values())]
        if any(scheme is not None and scheme.activations == "static" for scheme in schemes):
            return "static activations"
        if self.method not in (None, "round"):
            return str(self.method).upper()
        if self.smooth:
            return "SmoothQuant"
        return "bias correction" if self.correct_bias else None

    @property
    def takes_data(self) -> bool:
        """Whether calibration data changes anything."""
        return self.method != "round" or self.needs_data is not None

    def __str__(self) -> str:
        """One word for each option that is not the default, for the record in a bundle."""
        floats = "" if self.floats == "f32" else f"+{self.floats}"
        parts = [
            f"{self.scheme}{floats}",
            *(f"{pattern}:{scheme}" for pattern, scheme in self.layers.items()),
        ]
        parts += [self.method] if self.method is not None else []
        parts += [self.observer] if self.observer != "mse" else []
        parts += [f"smooth:{self.smooth:g}"] if self.smooth is not None else []
        parts += ["correct-bias"] if self.correct_bias else []
        parts += ["equalize"] if self.equalize else []
        parts += [] if self.protect else ["unprotected"]
        parts += [] if self.attention == "int8" else [f"attention:{self.attention}"]
        return " ".join(parts)


def quantization_of(name: str) -> Quantization:
    """What a name of `--precision` stands for, that of a scheme, with +FLOATS behind it or not. Raises
    ModelError for others."""
    scheme, plus, floats = name.partition("+")
    return Quantization(scheme, floats=floats if plus else "f32")  # type: ignore[arg-type]


def resolved(scheme: Scheme | str) -> Scheme | None:
    """A scheme by its name; None for f32."""
    return SCHEMES[scheme] if isinstance(scheme, str) else scheme


def _scheme_problem(scheme: Scheme | str) -> Problem | None:
    if isinstance(scheme, str):
        if scheme in SCHEMES:
            return None
        hint = nearest(scheme, [*SCHEMES, *FLOATS, *WITH_FLOATS])
        return Problem(Code.BAD_OPTION, f"no precision called {scheme!r}", "Quantization", hint)
    if scheme.bits not in get_args(Bits) or scheme.group < 0:
        text = f"{scheme.bits} bits in groups of {scheme.group}: bits are 8 or 4, groups positive"
        return Problem(Code.BAD_OPTION, text, "Quantization")
    if (wrong := _choice_problem("format", scheme.format, get_args(Format))) is not None:
        return wrong
    usual = SCHEMES.get(scheme.format)
    if usual is not None and (scheme.bits, scheme.symmetric) != (usual.bits, True):
        text = f"{scheme.format} has {usual.bits} bits and no zero points"
        return Problem(Code.BAD_OPTION, text, "Quantization")
    return _choice_problem("activations", scheme.activations, get_args(Activations))


def _choice_problem(option: str, value: str, known: tuple[str, ...]) -> Problem | None:
    if value in known:
        return None
    return Problem(Code.BAD_OPTION, f"{option}={value!r}", "Quantization", nearest(value, known))
