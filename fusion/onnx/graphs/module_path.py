"""The module that a node comes from, as torch's newer exporter tells it in the metadata of nodes."""

from __future__ import annotations

import re

import onnx

_SCOPES, _CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"
_QUOTED = re.compile(r"'([^']*)'")


def module_path(node: onnx.NodeProto) -> str:
    """Return such as `/layer1/0/relu` for the module, or with the function's name where a module calls it; or "".

    The metadata are lists in Python's syntax: the modules from the net's root (`''`) to the innermost one, and the
    function; and their classes.
    """
    found = {item.key: _QUOTED.findall(item.value) for item in node.metadata_props if item.key in (_SCOPES, _CLASSES)}
    scopes, classes = found.get(_SCOPES, []), found.get(_CLASSES, [])
    if len(scopes) < 2 or scopes[0] != "" or len(scopes) != len(classes):
        return ""
    module, function = scopes[-2], re.sub(r"_\d+$", "", scopes[-1])
    leaf = classes[-2].startswith("torch.nn.modules.")
    return "".join(f"/{part}" for part in (*module.split("."), *([] if module and leaf else [function])) if part)
