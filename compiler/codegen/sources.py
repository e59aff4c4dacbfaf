"""The `src` folder of a bundle whose code is C: all that a C compiler needs to build it, without us."""

from __future__ import annotations

from collections.abc import Sequence

from isthmus.codegen.kernel_c import kernel_c
from isthmus.codegen.toolchain import COMMON_FLAGS, KERNEL_FLAGS, runtime_sources
from isthmus.kernels.kernel import Kernel
from isthmus.systems import ARCHIVE, System

_MAKEFILE = """\
# Builds {library} of this folder with any C11 compiler: make CC=cc CFLAGS=-O2
CC ?= cc
AR ?= ar
CFLAGS ?= -O2
FLAGS := {flags}
OBJECTS := $(patsubst %.c,%.o,$(sort $(wildcard *.c)))

{library}: $(OBJECTS)
\t$(AR) rcs $@ $^

%.o: %.c $(wildcard *.h)
\t$(CC) $(FLAGS) $(CFLAGS) -c $< -o $@

clean:
\trm -f $(OBJECTS) {library}

.PHONY: clean
"""


def source_files(model_c: str, kernels: Sequence[Kernel], system: System) -> dict[str, str]:
    """Texts by file name: the plan, one file for each kernel, the runtime with its headers, a Makefile."""
    flags = [flag for flag in (*COMMON_FLAGS, *KERNEL_FLAGS) if flag.startswith(("-std", "-f"))]
    return {
        "model.c": model_c,
        **{f"kernel_{kernel.symbol}.c": kernel_c(kernel) for kernel in kernels},
        **runtime_sources(system),
        "Makefile": _MAKEFILE.format(
            library=ARCHIVE, flags=" ".join(dict.fromkeys((*flags, *system.compile)))
        ),
    }
