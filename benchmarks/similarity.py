"""How well sentence vectors agree with people: Pearson on pairs of news texts, Spearman on pairs of words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]
Embed = Callable[[dict[str, Array]], Array]

LONGEST = 512


@dataclass(frozen=True, slots=True)
class Agreement:
    """With 1,225 judgements of pairs of texts (Lee et al. 2005), and 999 of pairs of words (SimLex-999)."""

    pearson: float
    spearman: float


@dataclass(frozen=True, slots=True)
class Judgements:
    """The texts with the matrix of judgements, and the pairs of words with theirs."""

    texts: tuple[str, ...]
    of_texts: Floats
    pairs: tuple[tuple[str, str], ...]
    of_pairs: Floats


def read(fetch: Callable[[str], Path]) -> Judgements:
    """From the files that `fetch` finds by the names they have in tests/data.lock."""
    rows = [
        line.split("\t")
        for line in fetch("simlex999.txt").read_text("utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    return Judgements(
        lines(fetch("lee.cor")),
        np.loadtxt(fetch("similarities0-1.txt")),
        tuple((row[0], row[1]) for row in rows),
        np.asarray([float(row[2]) for row in rows]),
    )


def lines(path: Path) -> tuple[str, ...]:
    """The texts of a corpus, one a line."""
    return tuple(line for line in path.read_text("latin-1").splitlines() if line.strip())


def encoder(path: Path, names: Sequence[str]) -> Callable[[str], dict[str, Array]]:
    """What makes the inputs called `names` of one text."""
    words = Tokenizer.from_file(str(path))
    words.enable_truncation(LONGEST)
    words.no_padding()

    def encode(text: str) -> dict[str, Array]:
        tokens = words.encode(text)
        found = {
            "input_ids": tokens.ids,
            "attention_mask": tokens.attention_mask,
            "token_type_ids": tokens.type_ids,
        }
        return {name: np.asarray([found[name]], np.int64) for name in names}

    return encode


def agreement(embed: Embed, encode: Callable[[str], dict[str, Array]], judged: Judgements) -> Agreement:
    """Of the vectors [1, width] that `embed` gives."""

    def vector(text: str) -> Floats:
        found = embed(encode(text))[0].astype(np.float64)
        return np.asarray(found / np.linalg.norm(found))

    texts = np.stack([vector(text) for text in judged.texts])
    upper = np.triu_indices(len(texts), 1)
    words = {word: vector(word) for word in sorted({word for pair in judged.pairs for word in pair})}
    close = np.asarray([words[a] @ words[b] for a, b in judged.pairs])
    return Agreement(
        _correlation((texts @ texts.T)[upper], judged.of_texts[upper]),
        _correlation(ranks(close), ranks(judged.of_pairs)),
    )


def ranks(values: Floats) -> Floats:
    """The place of each in order; equals share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[place])


def _correlation(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(a, b)[0, 1])
