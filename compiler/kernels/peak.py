"""What the machine itself can do, as kernels: multiply-adds in registers, and reading memory.

Nothing is computed with them. Their speed is the roof that the time of other kernels is held against.
"""

from __future__ import annotations

from isthmus.kernels.builder import Builder
from isthmus.kernels.kernel import Kernel
from isthmus.target import Target

# Sums of a stream of loads: enough that no addition waits for the one before.
_STREAM_SUMS = 8


def chains(target: Target) -> int:
    """Registers that multiply and add at the same time: as many as hide the latency and leave room."""
    # Without FMA a product needs a register of its own.
    return target.vector.registers - (4 if target.vector.fma else 6)


def multiply_adds(target: Target) -> Kernel:
    """`turns` multiply-adds on each of `chains` registers; `memory` has room for as many vectors."""
    k = Builder("peak", target)
    memory, turns = k.output("memory"), k.size("turns")
    # Different starting values, or the compiler would see that one chain will do.
    registers = [k.register(f"sum{i}", k.lanes, float(i)) for i in range(chains(target))]
    factor = k.let("factor", k.spread(memory.load(0), k.lanes))
    with k.loop("i", 0, turns):
        for register in registers:
            register.set(register.value * factor + factor)
    for i, register in enumerate(registers):
        memory.store(i * k.lanes, register.value)
    return k.finish()


def stream_step(target: Target) -> int:
    """Floats that `read_stream` takes at a time."""
    return _STREAM_SUMS * target.vector.lanes(32)


def read_stream(target: Target) -> Kernel:
    """Reads `steps` times `stream_step` floats of `source` in order; their sums go to `memory`."""
    k = Builder("stream", target)
    source, memory, steps = k.input("source"), k.output("memory"), k.size("steps")
    sums = [k.register(f"sum{i}", k.lanes, 0.0) for i in range(_STREAM_SUMS)]
    with k.loop("i", 0, steps) as i:
        for number, register in enumerate(sums):
            place = (i * _STREAM_SUMS + number) * k.lanes
            register.set(register.value + source.load(place, k.lanes))
    for number, register in enumerate(sums):
        memory.store(number * k.lanes, register.value)
    return k.finish()
