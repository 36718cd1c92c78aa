"""Imports torchvision where its compiled operators do not load.

The torchvision wheel on PyPI is built for CUDA. Beside a CPU-only torch its library cannot be loaded, and the import
then fails with `operator torchvision::nms does not exist`, because torchvision describes two of its operators without
asking whether they are there. Declaring them, without any code, is enough for data sets, transforms and classification
networks; using one of the operators (in a detection network) fails as it would have done anyway.
"""

import sys
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from types import ModuleType

import torch

from dssp_bench.core.errors import DsspBenchError

_OPERATORS = {
    "torchvision::nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "torchvision::qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def import_torchvision(module: str) -> ModuleType:
    """A module of torchvision, such as `datasets` or `models`. Raises `DsspBenchError` if it is not installed."""
    if "torchvision" not in sys.modules:
        _declare_missing_operators()
    return import_module(f"torchvision.{module}")


@cache
def _declare_missing_operators() -> None:
    if _operators_load():
        return
    for name, schema in _OPERATORS.items():
        torch.library.define(name, schema)


def _operators_load() -> bool:
    """Load torchvision's library as torchvision itself would, whose second try is then free."""
    package = find_spec("torchvision")
    if package is None:
        raise DsspBenchError("torchvision is not installed: pip install torchvision")
    library = PathFinder.find_spec("_C", package.submodule_search_locations)
    if library is None or library.origin is None:
        return False
    try:
        torch.ops.load_library(library.origin)  # type: ignore[no-untyped-call]
    except OSError:
        return False
    return True
