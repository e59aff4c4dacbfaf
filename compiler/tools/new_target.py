"""The text of a new chip's file: another chip's values, each with what it means."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields

from isthmus import systems
from isthmus.target import NO_CHECK, ByteProducts, Caches, Runner, Target, VectorUnit

_FILE = '''\
"""{title}"""

from __future__ import annotations

from isthmus.systems import {system}
from isthmus.target import {imports}
{guard_text}
TARGETS = (
    Target(
        name={name},
        description="what it is, in a few words: shown by `isthmus targets`",
        # What `uname -m` says on such a machine.
        arch={arch},
        # What code for the chip may rely on, in the words of its makers.
        features={features},
        # How TVM makes kernels for it: LLVM's triple, its -mcpu, its -mattr.
        tvm={tvm},
        # Vector registers: width in bits (32: none), number, and whether a*b+c is one instruction.
        vector={vector},
        # Data caches of one core; what the smallest of such machines has.
        caches={caches},
        # How `zig cc` compiles C for it: architecture and the family's oldest processor, so that the library
        # can still say what a machine lacks.
        toolchain={system}.toolchain({zig_arch}, {zig_cpu}{triple}),
        # What a machine must have, as /proc/cpuinfo spells it; checked before the library is opened.
        cpu_flags={flags},
        # C source of `isthmus_machine_check`: why this machine will not do, or 0. NO_CHECK: it always will.
        guard={guard},
        # Which byte of a number comes first in memory: little or big.
        byte_order={order},
        # How kernels are made: by LLVM (llvm), or as C source for any compiler (c).
        kernels={kernels},
        # What runs a program of the chip on another machine, and what to install for it; the best first.
        runners={runners},
        # C functions of the chip's own that compute ops: isthmus.target.Routine.
        routines=(),
        # The instruction that multiplies bytes and sums in 32 bits: isthmus.target.ByteProducts. None: bytes
        # are multiplied as other integers.
        byte_products={byte_products},
    ),
)
'''

_TEST = '''\
"""The chip {name} computes what it should: the conformance kit."""

from __future__ import annotations

import json

import pytest

from isthmus.cli import app


@pytest.mark.slow
def test_conformance(capsys: pytest.CaptureFixture[str]) -> None:
    status = app.run(["targets", "test", {name!r}, "--json"])
    out, err = capsys.readouterr()
    if "E2005 no-runner" in err:
        pytest.skip(f"not run: {{err}}")
    found = json.loads(out)
    assert not found["failures"]
    assert status == 0
    assert found["passed"] == found["total"] > 0
'''


def module_name(name: str) -> str:
    """The name of the chip's module: x-1.2 becomes x_1_2."""
    plain = re.sub(r"\W", "_", name)
    return f"chip_{plain}" if plain[0].isdigit() else plain


def target_file(name: str, like: Target) -> str:
    """The module of the chip `name`, which is `like` another one but for what its maker changes."""
    system = next(name for name, value in vars(systems).items() if value is like.toolchain.system)
    arch, _, triple = like.toolchain.zig_target.partition("-")
    own_triple = triple != like.toolchain.system.triple
    guarded = like.guard != NO_CHECK
    names = [
        "Caches",
        "Target",
        "VectorUnit",
        *(["Runner"] if like.runners else []),
        *([] if guarded else ["NO_CHECK"]),
        *(["ByteProducts"] if like.byte_products else []),
    ]
    return _FILE.format(
        title=f"The chip {name}; begun as a copy of {like.name}.",
        system=system,
        imports=", ".join(sorted(names, key=lambda n: (not n.isupper(), n))),
        guard_text=f"\n_GUARD = {_literal(like.guard)}\n" if guarded else "",
        name=_python(name),
        arch=_python(like.arch),
        features=_python(like.features),
        tvm=_python(dict(like.tvm)),
        vector=_vector(like.vector),
        caches=_caches(like.caches),
        zig_arch=_python(arch),
        zig_cpu=_python(like.toolchain.zig_cpu),
        triple=f", {_python(triple)}" if own_triple else "",
        flags=_python(like.cpu_flags),
        guard="_GUARD" if guarded else "NO_CHECK",
        order=_python(like.byte_order),
        kernels=_python(like.kernels),
        runners=_runners(like.runners),
        byte_products=_byte_products(like.byte_products),
    )


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    return f'"""\\\n{escaped}"""'


def _python(value: object) -> str:
    """`value` as Python text, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(_python, value))}{',' * (len(value) == 1)})"
    if isinstance(value, list):
        return f"[{', '.join(map(_python, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_python(k)}: {_python(v)}' for k, v in value.items())}}}"
    return repr(value)


def _caches(caches: Caches) -> str:
    return f"Caches(l1_bytes={caches.l1_bytes}, l2_bytes={caches.l2_bytes}, line_bytes={caches.line_bytes})"


def _vector(vector: VectorUnit) -> str:
    more = "".join(f", {name}=True" for name in ("relaxed", "flushes") if getattr(vector, name))
    more += f", group={vector.group}" if vector.group > 1 else ""
    return f"VectorUnit(bits={vector.bits}, registers={vector.registers}, fma={vector.fma}{more})"


def _byte_products(found: ByteProducts | None) -> str:
    if found is None:
        return "None"
    quads = f", quads={_python(found.quads)}" if found.quads else ""
    narrower = f", narrower={found.narrower!r}" if found.narrower else ""
    named = f"unsigned={found.unsigned}{quads}{narrower}"
    return f"ByteProducts({_python(found.intrinsic)}, {found.neighbours}, {named})"


def _runners(runners: Sequence[Runner]) -> str:
    """The first, with what it says; others may be of this machine only."""
    texts = [
        ", ".join(
            f"{f.name}={_python(value)}"
            for f in fields(runner)
            if (value := getattr(runner, f.name)) != f.default
        )
        for runner in runners[:1]
    ]
    return f"({''.join(f'Runner({text}),' for text in texts)})"


def conformance_test(name: str) -> str:
    """The module of the chip's test."""
    return _TEST.format(name=name)
