"""What a user asks of outputs: fewer of them, or none of what padding came to."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from padded import arrays, encoder, masks, with_weights

from isthmus.bundle.manifest import Chip, Entry, Manifest, Port, parse
from isthmus.cli.verify import as_bundle
from isthmus.errors import BundleError, Code, ModelError
from isthmus.ir.evaluate import evaluate
from isthmus.ir.graph import Program
from isthmus.ops.text import parse as parse_program
from isthmus.passes.legalize.padding import PaddingFree
from isthmus.passes.request import drop_padding, only
from isthmus.target import Target
from isthmus.tools.contract import padding_text

TWO = parse_program(
    """
    graph main(%x: f32[b,s,4], %mask: i64[b,s]) {
      %0 = relu(%x) : f32[b,s,4]
      %1 = reduce_sum(%0) axes=[1,2] : f32[b,1,1]
      return tokens=%0, total=%1, seen=%mask
    }
    """
)
MASK = np.array([[1, 0, 1], [0, 0, 0]])


def test_only_some_outputs() -> None:
    assert only(TWO, ()) is TWO
    assert [name for name, _ in only(TWO, ("total", "tokens")).main.outputs] == ["tokens", "total"]
    with pytest.raises(ModelError) as caught:
        only(TWO, ("totl", "total"))
    assert [(p.code, p.where) for p in caught.value.problems] == [(Code.BAD_OPTION, "--only")]
    assert "total" in caught.value.problems[0].hint


def test_padding_is_zero_in_outputs_with_a_row_for_each_position() -> None:
    inputs = {"x": np.full((2, 3, 4), 2, np.float32), "mask": MASK}
    before, after = evaluate(TWO.main, inputs), evaluate(drop_padding(TWO).main, inputs)
    np.testing.assert_array_equal(after["tokens"], before["tokens"] * MASK[..., None])
    for name in ("total", "seen"):
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("%x: f32[b,s,4]", "found: none"),
        ("%x: f32[b,s,4], %mask: i64[b,s], %mask2: i64[b,s]", "found: mask, mask2"),
        ("%x: f32[b,4], %mask: i64[b,s]", "no output has a row"),
    ],
)
def test_what_cannot_be_dropped(inputs: str, said: str) -> None:
    shape = inputs[: inputs.index("]") + 1].split(": ")[1]
    program = parse_program(f"graph main({inputs}) {{ %0 = relu(%x) : {shape} return y=%0 }}")
    with pytest.raises(ModelError, match=said):
        drop_padding(program)


def test_an_encoder_is_free_of_padding_when_it_is_dropped(target: Target) -> None:
    whole = with_weights(encoder("tokens"), arrays(1, 1, np.ones((1, 1))))
    # The same without the `where` at its end: its output shows padding.
    shown = _shown(whole)
    assert PaddingFree()(shown, target, lambda _: None) is shown
    dropped = drop_padding(shown)
    after = PaddingFree()(dropped, target, lambda _: None)
    assert padding_text(shown.main, ()) == ""
    assert padding_text(after.main, ()).startswith("not computed where mask is 0")
    for name, mask in masks(3, 5):
        given = arrays(3, 5, mask)
        inputs = {"ids": given["ids"], "mask": given["mask"]}
        wanted = evaluate(shown.main, inputs)["y"] * (mask != 0)[..., None]
        got = evaluate(after.main, inputs)["y"]
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5, err_msg=name)


def _shown(program: Program) -> Program:
    (end,) = (value for _, value in program.main.outputs)
    return program.map_graphs(lambda graph: graph.with_outputs((end.args[1],)))


def _manifest(padding: str | None) -> Manifest:
    ports = Port("x", "f32", ("b", "s", 4)), Port("mask", "i64", ("b", "s"))
    outputs = Port("tokens", "f32", ("b", "s", 4)), Port("total", "f32", ("b", 1, 1))
    entry, chip = Entry("main", ports, outputs), Chip("c", "any", "none")
    return Manifest("m", "none", chip, "lib/m.a", None, (), (entry,), "f32", "", (), padding=padding)


def test_verify_expects_of_a_model_what_the_bundle_does() -> None:
    def model(_: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tokens, total = np.ones((2, 3, 4), np.float32), np.ones((2, 1, 1), np.float32)
        return {"tokens": tokens, "total": total, "another": total}

    kept = as_bundle(model, _manifest(None))({"mask": MASK})
    assert kept.keys() == {"tokens", "total"}
    assert (kept["tokens"] == 1).all()
    dropped = as_bundle(model, _manifest("mask"))({"mask": MASK})
    np.testing.assert_array_equal(dropped["tokens"][..., 0], MASK)
    assert (dropped["total"] == 1).all()


def test_the_manifest_says_what_padding_is() -> None:
    assert '"padding"' not in _manifest(None).dumps()
    with pytest.raises(BundleError, match="padding: 'mosk' is no input"):
        parse(_manifest("mosk").dumps())
