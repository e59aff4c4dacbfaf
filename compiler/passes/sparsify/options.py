"""What can be asked of pruning: which numbers go, how many, and by what they are judged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from isthmus.errors import Code, ModelError, Problem

Form: TypeAlias = Literal["unstructured", "groups", "blocks", "channels", "heads"]
METHODS = ("magnitude", "wanda", "sparsegpt")
FORMS = "2:4, 4:8, unstructured@0.9[:spread], block:1x4@0.8[:spread], channels@0.25, heads@0.25 or auto"
AUTO = "auto"
# The largest group whose places are stored, and the largest side of a block that a kernel takes.
MOST_GROUP, MOST_SIDE = 32, 8

_FORMS: Mapping[str, Form] = {"unstructured": "unstructured", "heads": "heads", "channels": "channels"}
_GROUPS = re.compile(r"(\d{1,4}):(\d{1,4})")
_RATIO = re.compile(r"(unstructured|heads|channels|block:(\d{1,4})x(\d{1,4}))@([-+.\deE]{1,20})(:spread)?")


@dataclass(frozen=True, slots=True)
class Sparsity:
    """Of each matrix the share `ratio` goes.

    In `groups`, `kept` of every `group` inputs of an output stay; blocks are of `outputs` x `inputs`;
    channels are the hidden ones between two products, heads those of attention. `auto`: of each layer the
    share that a budget allows it. `spread`: of all matrices together the share `ratio`, of each as much as
    disturbs its results like the others'.
    """

    form: Form
    ratio: float
    method: str = "magnitude"
    kept: int = 0
    group: int = 0
    outputs: int = 1
    inputs: int = 1
    auto: bool = False
    spread: bool = False

    def __str__(self) -> str:
        if self.auto:
            return f"auto by {self.method}"
        if self.form == "groups":
            return f"{self.kept}:{self.group} by {self.method}"
        name = f"block:{self.outputs}x{self.inputs}" if self.form == "blocks" else self.form
        return f"{name}@{self.ratio:g}{':spread' * self.spread} by {self.method}"

    @property
    def needs_data(self) -> bool:
        return self.auto or self.spread or self.method != "magnitude"

    @property
    def structured(self) -> bool:
        """Whether the graph shrinks, instead of its matrices getting zeros."""
        return self.form in ("channels", "heads")


def parse_sparsity(text: str, method: str = "magnitude") -> Sparsity:
    """What `text` asks for; the method `data` is the best that takes data.

    Raises ModelError (bad-sparsity) for what cannot be.
    """
    if method == "data":
        method = "wanda" if text.startswith(("heads", "channels")) else "sparsegpt"
    if method not in METHODS:
        raise _bad(f"no method {method!r}", f"known: {', '.join(METHODS)}", "--sparsity-method")
    if text == AUTO:
        return Sparsity("unstructured", 0.0, method, auto=True)
    if found := _GROUPS.fullmatch(text):
        return _groups(int(found[1]), int(found[2]), method)
    found = _RATIO.fullmatch(text)
    if found is None:
        raise _bad(f"{text!r} is no sparsity", f"one of {FORMS}")
    try:
        ratio = float(found[4])
    except ValueError:
        raise _bad(f"{found[4]!r} is no number", f"one of {FORMS}") from None
    if not 0 <= ratio < 1:
        raise _bad(f"a share of {found[4]} cannot go", "a number from 0 up to, and without, 1")
    spread = found[5] is not None
    if found[2] is None:
        form = _FORMS[found[1]]
        if form in ("heads", "channels") and spread:
            raise _bad(f"{form} go everywhere alike", "numbers and blocks are spread by sensitivity")
        if form in ("heads", "channels") and method == "sparsegpt":
            raise _bad(f"sparsegpt does not judge {form}", "--sparsity-method magnitude or wanda")
        return Sparsity(form, ratio, method, spread=spread)
    outputs, inputs = int(found[2]), int(found[3])
    if not (1 <= outputs <= MOST_SIDE and 1 <= inputs <= MOST_SIDE):
        raise _bad(f"blocks of {outputs}x{inputs}", f"sides from 1 to {MOST_SIDE}")
    return Sparsity("blocks", ratio, method, outputs=outputs, inputs=inputs, spread=spread)


def _groups(kept: int, group: int, method: str) -> Sparsity:
    if group > MOST_GROUP or group < 2:
        raise _bad(f"groups of {group}", f"from 2 to {MOST_GROUP}")
    if not 0 < kept < group:
        raise _bad(f"{kept} of {group} cannot stay", "n:m with 0 < n < m, such as 2:4")
    return Sparsity("groups", 1 - kept / group, method, kept=kept, group=group)


def _bad(text: str, hint: str, where: str = "--sparsity") -> ModelError:
    return ModelError(Problem(Code.BAD_SPARSITY, text, where, hint))
