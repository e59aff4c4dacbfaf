"""Other engines held to AVX2, whatever the processor has; run as a script it shows that they are.

    python benchmarks/held.py [MODEL] [--size 1x128] [--seconds 3]

Engines ask the processor what it has by cpuid. Where that can be made to fault, held.c answers it. Where
not, every cpuid in private copies of the engines' libraries is replaced by two bytes that are no instruction
(0f 04), for which held.c answers as well; objdump tells where they are. Nothing else in them is changed.

The script runs each engine as it is and held, in processes of their own. It prints the median time of a run,
and whether Linux saw AVX-512 in use meanwhile (/proc/PID/task/*/arch_status).
"""

from __future__ import annotations

import argparse
import atexit
import ctypes
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib import util
from pathlib import Path

import numpy as np
from places import ROOT

from isthmus.tools.peers import open_engine

PACKAGES = ("onnxruntime", "openvino")  # that cannot be told, or not in full
EVERY, MARKED = 0, 1  # what held.c then answers: every cpuid, or where MARK stands
CPUID, MARK = b"\x0f\xa2", b"\x0f\x04"
# The C library's own copies of memory would count as AVX-512 in use.
PLAIN_LIBC = "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-AVX512CD,-AVX512ER"


def hold_to_avx2() -> str:
    """From here on engines that this process loads find a processor without AVX-512; "" or why they do not.

    Raises RuntimeError when one of them is loaded already: it knows what the processor has.
    """
    early = [name for name in PACKAGES if name in sys.modules]
    if early:
        raise RuntimeError(f"{', '.join(early)} was imported before it could be held")
    scratch = tempfile.TemporaryDirectory()
    atexit.register(scratch.cleanup)
    folder = Path(scratch.name)
    library = folder / "held.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*command, str(ROOT / "benchmarks" / "held.c")], check=True)
    answered = ctypes.CDLL(str(library)).hold()
    if answered == EVERY:
        return ""
    if answered != MARKED:
        return "no handler can be set for the signals of a fault"
    if shutil.which("objdump") is None:
        return "this processor does not let cpuid fault, and there is no objdump to find it in the engines"
    for package in PACKAGES:
        patched_copy(package, folder)
    sys.path.insert(0, str(folder))
    return ""


def patched_copy(package: str, folder: Path) -> None:
    """Put the installed `package` into `folder`, with MARK for every cpuid; files without any are linked."""
    spec = util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    shutil.copytree(Path(spec.origin).parent, folder / package, copy_function=_link)
    for library in (folder / package).rglob("*.so*"):
        if places := cpuid_places(library):
            code = bytearray(library.read_bytes())
            for place in places:
                assert code[place : place + 2] == CPUID, f"{library}: no cpuid at {place}"
                code[place : place + 2] = MARK
            library.unlink()  # a link: what it leads to is not ours
            library.write_bytes(code)


def cpuid_places(library: Path) -> list[int]:
    """Where in the file its cpuid instructions are. Bytes that only look like one are not among them."""
    if CPUID not in library.read_bytes():
        return []
    command = ["objdump", "--disassemble", "--file-offsets", "--no-show-raw-insn", str(library)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None
        return list(_places(listing.stdout))


def _places(listing: Iterable[str]) -> Iterator[int]:
    """Of instructions like `1f3a:<tab>cpuid` under headings like `00001f00 <f> (File Offset: 0xf00):`."""
    moved = 0
    for line in listing:
        if line.endswith("):\n") and "(File Offset: 0x" in line:
            moved = int(line.split("(File Offset: 0x")[1][:-3], 16) - int(line.split(" ", 1)[0], 16)
        elif "\tcpuid" in line:
            yield int(line.split(":", 1)[0], 16) + moved


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system
        shutil.copy2(source, target)


# The proof


def idle_milliseconds() -> int:
    """Since any thread of this process was last seen with AVX-512 in its registers."""
    found = []
    for status in Path("/proc/self/task").glob("*/arch_status"):
        value = int(status.read_text("ascii").split(":")[1])
        found.append(value if value >= 0 else sys.maxsize)  # never
    return min(found)


def run_one(engine: str, model: Path, size: Sequence[int], seconds: float, held: bool) -> None:
    """Print one line: what a run takes, and whether AVX-512 was in use."""
    if held and (why := hold_to_avx2()):
        sys.exit(f"cannot be held: {why}")
    opened = open_engine(engine, model, 1)
    ids = np.random.default_rng(0).integers(1000, 30000, tuple(size))
    request = opened.request({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    times = []
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        request.run()
        times.append(time.perf_counter() - started)
    used = idle_milliseconds() < 0.9e3 * seconds
    how, said = "held" if held else "as it is", "yes" if used else "no"
    sys.stdout.write(
        f"{engine:12} {how:9} {1e3 * statistics.median(times):8.2f} ms   AVX-512 in use: {said}\n"
    )


def main() -> None:
    """Each engine as it is, and held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--size", default="1x128")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--engine", choices=PACKAGES, help=argparse.SUPPRESS)
    parser.add_argument("--held", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    size = tuple(map(int, given.size.split("x")))
    if given.engine:
        run_one(given.engine, given.model, size, given.seconds, given.held)
        return
    command = [sys.executable, str(ROOT / "examples" / "fetch_data.py"), "paraphrase-MiniLM-L3-v2.onnx"]
    fetched = (
        "" if given.model else subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    model = given.model or fetched.strip()
    for engine in PACKAGES:
        for more in ([], ["--held"]):
            subprocess.run(
                [sys.executable, __file__, str(model), *sys.argv[1:], "--engine", engine, *more],
                check=True,
                env={**os.environ, "GLIBC_TUNABLES": PLAIN_LIBC},
            )


if __name__ == "__main__":
    main()
