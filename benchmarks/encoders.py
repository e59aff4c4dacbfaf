"""The published table: whole models against other engines, on 1 and 2 threads, wins and losses alike.

    python benchmarks/encoders.py [--models minilm-l3 bert-base] [--seconds 6] [-o FOLDER]
    python benchmarks/encoders.py --models bert-base --parts points --threads 1 --sizes 8x128
    python benchmarks/encoders.py --models minilm-l3-int8 --threads 1

For each model: compile time and peak memory with cached kernels, every size in turns with the other engines
and the machine's arithmetic limit, start to first answer, memory of a second process. Everything measured
goes to <model>.json in the folder of this machine's processor, benchmarks/results/<processor>, as soon as it
is known, and the table to table.md; what is measured again replaces what was there, so an interrupted run is
taken up by naming the parts that are missing. A bundle that is missing is compiled, whatever the parts.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import models
import numpy as np
from held import hold_to_avx2
from int8_peers import calibration, peer_models
from places import ROOT, WORK, results_folder
from rich.console import Console
from startup import second_process, start

from isthmus.bundle.reader import open_bundle
from isthmus.cli.bench import results
from isthmus.cli.verify import stored_cases
from isthmus.driver import find_target
from isthmus.runtime import load
from isthmus.tools.contest import Contest, Point
from isthmus.tools.inputs import dim_names

SIZES = ((1, 16), (1, 128), (1, 512), (8, 128))
THREADS = (1, 2)
STATIC = "int8-static"
PEERS = ("onnxruntime", "openvino")
IN_BYTES = (*PEERS, "openvino-bf16")
PEERS_IN = {"f32": PEERS, "int8": IN_BYTES, STATIC: IN_BYTES}
PARTS = ("compile", "points", "start")
Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """A model of the table: what it is, and the sizes of its dims in order of appearance."""

    title: str
    sizes: tuple[tuple[int, ...], ...]
    real: str = ""  # of tests/data.lock; else random weights
    held: bool = False  # all engines, to AVX2
    precision: str = "f32"

    @property
    def peers(self) -> tuple[str, ...]:
        """Those that compute in this precision."""
        if self.precision in PEERS_IN:
            return PEERS_IN[self.precision]
        return (f"openvino-{self.precision}",)

    def file(self, name: str, folder: Path) -> Path:
        """The model, made in `folder` or fetched."""
        if not self.real:
            return models.write(name.removesuffix(HELD).removesuffix(f"-{self.precision}"), folder)
        return fetched(self.real)


def fetched(name: str) -> Path:
    """The file called `name` in tests/data.lock."""
    command = [sys.executable, str(ROOT / "examples" / "fetch_data.py"), name]
    return Path(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip())


HELD = "-avx2"
IN_INT8 = "in int8; onnxruntime's dynamic; NNCF's, its floats in f32 and bf16 (the limit is that of f32)"
REAL = "paraphrase-MiniLM-L3-v2.onnx"
SUBJECTS: Mapping[str, Subject] = {
    "minilm-l3": Subject("paraphrase-MiniLM-L3-v2", SIZES, REAL),
    "bert-base": Subject("BERT-base, random weights", SIZES),
    "vit-s16": Subject("ViT-S/16, random weights, 197 tokens", ((1,),)),
    "gpt2-small": Subject("GPT-2 small, random weights", ((1, 256),)),
    "minilm-l3-bf16": Subject(
        "paraphrase-MiniLM-L3-v2 in bf16 (the limit is that of f32)", SIZES, REAL, precision="bf16"
    ),
    "bert-base-bf16": Subject(
        "BERT-base, random weights, in bf16 (the limit is that of f32)", SIZES, precision="bf16"
    ),
    "minilm-l3-int8": Subject(f"paraphrase-MiniLM-L3-v2 {IN_INT8}", SIZES, REAL, precision="int8"),
    "minilm-l3-int8-static": Subject(
        f"paraphrase-MiniLM-L3-v2 in int8 with scales from calibration, others {IN_INT8}",
        SIZES,
        REAL,
        precision=STATIC,
    ),
    "bert-base-int8": Subject(f"BERT-base, random weights, {IN_INT8}", SIZES, precision="int8"),
    f"minilm-l3{HELD}": Subject("paraphrase-MiniLM-L3-v2, all engines held to AVX2", SIZES, REAL, held=True),
    f"bert-base{HELD}": Subject(
        "BERT-base, random weights, all engines held to AVX2", ((1, 16), (1, 128)), held=True
    ),
}


def target_of(subject: Subject) -> str:
    """The chip that it is compiled for."""
    return find_target("x86-64-v3" if subject.held else "host").name


def calibration_in(folder: Path) -> Path:
    """`folder`, with the requests that all engines calibrate on."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, request in enumerate(calibration(fetched)):
        np.savez(folder / f"{i:02}.npz", allow_pickle=False, **request)
    return folder


# A command and its most memory in KiB. Of a process started by a large one, Linux counts what that one had.
PEAK = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def compile_in_process(model: Path, name: str, target: str, output: Path, precision: str) -> dict[str, float]:
    """What a second compile took, when the kernels are cached: seconds and peak bytes."""
    taken: dict[str, float] = {}
    for _ in range(2):
        command = ["compile", str(model), "--name", name, "--target", target, "-o", str(output)]
        command += ["--precision", precision]
        if precision == STATIC:
            command += ["--calibration", str(calibration_in(output.parent / "calibration"))]
        started = time.perf_counter()
        compiling = [sys.executable, "-c", "from isthmus.cli.app import main; main()", *command]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *compiling], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{name} does not compile")
        taken = {"seconds": time.perf_counter() - started, "peak_bytes": int(done.stdout) * 1024.0}
    return taken


def point_at(
    bundle: Path,
    model: Path,
    size: Sequence[int],
    threads: int,
    peers: Sequence[str],
    seconds: float,
    others: Mapping[str, Path],
) -> Point:
    """One line of the table; `others`: what peers run instead of `model`."""
    with load(bundle, 1) as session:
        manifest, ports = session.manifest, session.inputs
    names = dim_names(ports)
    (point,) = Contest(
        bundle=bundle,
        cases=stored_cases(bundle),
        ports=ports,
        threads=(threads,),
        grid=(dict(zip(names, size, strict=True)),),
        seconds=seconds,
        model=model,
        peers=tuple(peers),
        limit=find_target(manifest.chip.name),
        models=others,
        tell=lambda what: Console(stderr=True).print(f"  {what}", style="dim"),
    ).points()
    return point


def measure(name: str, folder: Path, given: argparse.Namespace) -> Iterator[Result]:
    """The parts of one model that are asked for, one by one, each point a part."""
    subject = SUBJECTS[name]
    target, bundles = target_of(subject), folder / "bundles"
    model, bundle = subject.file(name, folder / "models"), bundles / f"{name}@{target}"
    if "compile" in given.parts or not bundle.is_dir():
        yield {"compile": compile_in_process(model, name, target, bundles, subject.precision)}
    peers, manifest = given.against or subject.peers, open_bundle(bundle).manifest
    if "points" in given.parts and subject.held and (why := hold_to_avx2()):
        yield {"not_measured": why}
        return
    sizes = [size for size in subject.sizes if not given.sizes or size in given.sizes]
    own_files = subject.precision in ("int8", STATIC)  # peers run files that their own quantizers made
    # The same files for static scales: theirs differ in nothing.
    others = peer_models(model, name.removesuffix("-static"), folder / "models", fetched) if own_files else {}
    # Most threads first: an engine may count the processors it has once in a process.
    for threads, size in product(sorted(given.threads, reverse=True), sizes):
        if "points" in given.parts:
            point = point_at(bundle, model, size, threads, peers, given.seconds, others)
            found: Result = results([point], manifest, given.seconds, True)
            for peer in others.keys() & set(peers):
                found["engines"][peer]["precision"] = subject.precision
            yield found
    if "start" in given.parts and not subject.held and not own_files:
        yield {"start": start(bundle, model, peers, given.turns)}
    if "start" in given.parts:
        yield {"memory": dict(second_process(bundle))}


def merged(before: Result, now: Result) -> Result:
    """`now` over what was found `before`: points by threads and sizes, engines by name, else as a whole."""
    both = {**before, **now}
    if "points" in now:
        both.pop("not_measured", None)
    if "engines" in both:
        both["engines"] = {**before.get("engines", {}), **now.get("engines", {})}
    cells = {
        (point["threads"], *point["sizes"].values()): point
        for found in (before, now)
        for point in found.get("points", ())
    }
    return both | {"points": [cells[key] for key in sorted(cells)]}


def sizes_of(text: str) -> tuple[int, ...]:
    """`8x128`."""
    return tuple(map(int, text.split("x")))


# The table


def table(found: Mapping[str, Result]) -> str:
    """Markdown of everything in `found`, by name of the model."""
    measured = [result for result in found.values() if "machine" in result]
    first = measured[0]
    machine, engines = first["machine"], first["engines"]
    versions = ", ".join(f"{name} {engine['version'].split('-')[0]}" for name, engine in engines.items())
    caches = ", ".join(f"{name} {size}" for name, size in machine["caches"].items())
    about = (
        f"{machine['processor']}, {machine['processors']} processors, {caches}. {versions}; in f32 unless "
        "the title says otherwise, one request at a time, in turns in one process. Times are medians in "
        "milliseconds; a ratio is our time over theirs, the median over turns: below 1 we are faster, and "
        "where we are slower it is bold. "
        "OpenVINO is compiled for each size; one bundle and one onnxruntime session serve all. The limit is "
        "the multiply-adds of the model at the speed of a loop of multiply-adds in registers, timed in the "
        "same turns."
    )
    head = ["# Whole models", "", about, ""]
    lines = [line for result in measured for line in _model(result)]
    return "\n".join([*head, *lines, *_missing(found)]) + "\n"


def _missing(found: Mapping[str, Result]) -> list[str]:
    missing = [result for result in found.values() if "not_measured" in result]
    return [f"Not measured: {result['title']}: {result['not_measured']}." for result in missing]


def _model(result: Result) -> list[str]:
    peers = [name for name in result["engines"] if name != "isthmus"]
    columns = ["sizes", "threads", "isthmus", *(c for name in peers for c in (name, "ratio")), "of the limit"]
    lines = [f"## {result['title']}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for point in result["points"]:
        cells = [" x ".join(map(str, point["sizes"].values())), str(point["threads"]), _ms(point["isthmus"])]
        for name in peers:
            if name not in point["peers"]:  # measured with others only
                cells += ["", ""]
                continue
            ratio = point["peers"][name]["ratio"]["median"]
            cells += [_ms(point["peers"][name]), f"{ratio:.2f}" if ratio <= 1 else f"**{ratio:.2f}**"]
        cells.append(f"{point['limit']['share']['median']:.0%}")
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *_remarks(result), ""]


def _remarks(result: Result) -> list[str]:
    lines = []
    for threads in dict.fromkeys(point["threads"] for point in result["points"]):
        chosen = [
            _best(point) for point in result["points"] if point["threads"] == threads and point["peers"]
        ]
        if chosen:
            mean = math.exp(sum(math.log(ratio) for _, ratio in chosen) / len(chosen))
            lost = [f"{where} ({ratio:.2f})" for where, ratio in chosen if ratio > 1]
            text = f"- {threads} thread{'s' if threads > 1 else ''}: {1 / mean:.2f} times as fast as the best"
            lines.append(
                f"{text} peer in geometric mean; slower at {', '.join(lost) if lost else 'no size'}."
            )
    if speed := _scaling(result):
        lines.append(f"- 2 threads over 1: {speed}.")
    if compiling := result.get("compile"):
        peak = compiling["peak_bytes"] / 1e9
        lines.append(f"- Compiling with cached kernels: {compiling['seconds']:.1f} s, {peak:.2f} GB at most.")
    for name, started in result.get("start", {}).items():
        if name != "isthmus":
            ours = result["start"]["isthmus"]["median_ms"]
            theirs = f"{name} {started['median_ms']:.0f} ms, ratio {started['ratio']:.3f}"
            lines.append(f"- Start to first answer: {ours:.1f} ms; {theirs}.")
    if memory := result.get("memory"):
        share = memory["second_process"] / max(memory["weights"], 1)
        lines.append(
            f"- A second process adds {memory['second_process'] / 1e6:.2f} MB, {share:.1%} of the weights."
        )
    return lines


def _best(point: Result) -> tuple[str, float]:
    """Where, and our time over that of the fastest peer there."""
    return " x ".join(map(str, point["sizes"].values())), max(
        peer["ratio"]["median"] for peer in point["peers"].values()
    )


def _scaling(result: Result) -> str:
    """How much faster two threads are, by size."""
    times = {(tuple(p["sizes"].values()), p["threads"]): p["isthmus"]["median_ms"] for p in result["points"]}
    pairs = [
        (sizes, times[sizes, 1] / times[sizes, 2]) for sizes, n in times if n == 2 and (sizes, 1) in times
    ]
    return ", ".join(f"{speed:.2f} at {' x '.join(map(str, sizes))}" for sizes, speed in pairs)


def _ms(timing: Result) -> str:
    value = timing["median_ms"]
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def read_results(folder: Path) -> dict[str, Result]:
    """What was measured before, in the order of SUBJECTS."""
    found = {}
    for name in SUBJECTS:
        with suppress(FileNotFoundError):
            found[name] = json.loads((folder / f"{name}.json").read_text("utf-8"))
    return found


def run_alone(name: str) -> int:
    """This script once more, for one of its models; the status it ends with."""
    return subprocess.run([sys.executable, *sys.argv, "--models", name], check=False).returncode


def save(name: str, now: Result, folder: Path) -> None:
    """Put what was found `now` among what there is of this model, and into the table."""
    before = read_results(folder).get(name, {})
    both = merged(before, {"title": SUBJECTS[name].title, **now})
    (folder / f"{name}.json").write_text(f"{json.dumps(both, indent=1)}\n", "utf-8")
    found = read_results(folder)
    if any("machine" in result for result in found.values()):
        (folder / "table.md").write_text(table(found), "utf-8")


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="*", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--threads", nargs="+", type=int, default=THREADS)
    parser.add_argument("--sizes", nargs="+", type=sizes_of, default=[], help="such as 8x128; none: all")
    parser.add_argument("--against", nargs="+", help="by default all in the model's precision")
    parser.add_argument("--seconds", type=float, default=6.0, help="for each line of the table")
    parser.add_argument("--turns", type=int, default=7, help="starts of each engine")
    parser.add_argument("--work", type=Path, default=WORK, help="models and bundles")
    parser.add_argument("-o", "--output", type=Path, help="by default the folder of this processor")
    given = parser.parse_args()
    output = given.output or results_folder()
    output.mkdir(parents=True, exist_ok=True)
    if len(given.models) > 1:  # in processes of their own: what holds one to AVX2 holds it for good
        failed = [name for name in given.models if run_alone(name)]
        sys.exit(f"not measured to the end, as said above: {', '.join(failed)}" if failed else 0)
    for name in given.models:
        for now in measure(name, given.work, given):
            save(name, now, output)


if __name__ == "__main__":
    main()
