"""Requests to one session, one after the other: what a session remembers changes no answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isthmus.errors import InputError
from isthmus.runtime import load

MakeRequest = Callable[..., dict[str, np.ndarray]]


def test_requests_of_other_shapes_in_between(bundle: Path, make_request: MakeRequest) -> None:
    with load(bundle, threads=1) as session:
        for columns in (4, 4, 7, 4, 1, 4):
            request = make_request(2, columns)
            np.testing.assert_array_equal(session(**request)["y"], 2 * request["x"] + 1)
            with pytest.raises(InputError):
                session(**{name: array[None] for name, array in request.items()})


@pytest.mark.parametrize("dtype", ["datetime64[s]", "O", "U4", ">f4", "i4,f8"])
def test_arrays_of_other_kinds(dtype: str, bundle: Path, make_request: MakeRequest) -> None:
    """Not all of them have a buffer, and none is looked into."""
    with load(bundle, threads=1) as session:
        request = make_request(2, 4)
        session(**request)
        for array in (np.zeros((2, 4), dtype), np.zeros((4, 2), dtype).T, np.zeros((0, 4), dtype)):
            with pytest.raises(InputError, match="dtype is"):
                session(**{**request, "x": array})
        np.testing.assert_array_equal(session(**request)["y"], 2 * request["x"] + 1)


def test_requests_that_cannot_be_written_to(bundle: Path, make_request: MakeRequest) -> None:
    request = make_request(2, 4)
    for array in request.values():
        array.flags.writeable = False
    with load(bundle, threads=1) as session:
        np.testing.assert_array_equal(session(**request)["y"], 2 * request["x"] + 1)
