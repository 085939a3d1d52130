"""ONNX's own tests of its operators: each is computed rightly, or refused with a reason before anything is converted.

Which cases there are depends on the installed onnx; those with sequences or absent values are no tensors and left out.
"""

from __future__ import annotations

import warnings
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from fusion.errors import OnnxError
from fusion.onnx.graphs import normalize_graph, support
from fusion.onnx.graphs.read import from_model
from fusion.onnx.to_torch import OnnxNet

PASSING = {"all inputs are fed": 1213, "further inputs are constants": 1315}
"""At least, of the 1,858 cases of onnx 1.23."""


@cache
def cases() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the arithmetic that makes the expected values
        from onnx.backend.test.loader import load_node_model_tests

        return list(load_node_model_tests())


def arrays(values: Any) -> list[np.ndarray[Any, Any]] | None:
    found = [numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value for value in values]
    if not all(isinstance(value, (np.ndarray, np.generic, int, float)) for value in found):
        return None
    return [np.asarray(value) for value in found]


def outcome(case: Any, constant: bool) -> str:
    given, expected = (arrays(values) for values in case.data_sets[0])
    if given is None or expected is None:
        return "no tensors"
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    if constant:
        inputs = list(model.graph.input)
        model.graph.initializer.extend(
            numpy_helper.from_array(array, value.name) for value, array in zip(inputs[1:], given[1:], strict=True)
        )
        del model.graph.input[1:]
        given = given[:1]
    try:
        graph = normalize_graph(from_model(model))
    except OnnxError:
        return "refused"
    if support(graph).unsupported:
        return "refused"
    try:
        module = OnnxNet(graph, frozen=True)
        found = module(*(torch.from_numpy(array.copy()) for array in given))
    except Exception as error:
        return f"late: {type(error).__name__}: {error}"
    tops = [found] if isinstance(found, torch.Tensor) else list(found)
    equal = all(_equal(top.numpy(), array, case) for top, array in zip(tops, expected, strict=True))
    return "right" if equal else "wrong"


def _equal(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], case: Any) -> bool:
    """Half and double precision come as float32, all other types as they are."""
    if found.shape != expected.shape or (found.dtype != expected.dtype and expected.dtype not in ("f2", "f8")):
        return False
    if expected.dtype == bool:
        return bool(np.array_equal(found, expected))
    wanted = expected.astype(np.float64)
    unit = 2.0**-9 if expected.dtype == np.float16 else case.rtol  # expected values have been rounded at each step
    return bool(np.allclose(found.astype(np.float64), wanted, rtol=unit, atol=1e-6, equal_nan=True))


@pytest.mark.slow
@pytest.mark.parametrize("way", PASSING)
def test_every_case_is_right_or_refused(way: str) -> None:
    found = {case.name: outcome(case, way != "all inputs are fed") for case in cases()}
    wrong = {name: text for name, text in found.items() if text.startswith(("wrong", "late"))}
    assert not wrong, wrong
    counts = Counter(found.values())
    print(f"{way}: {dict(counts)}")
    if len(found) >= 1884:
        assert counts["right"] >= PASSING[way], counts
