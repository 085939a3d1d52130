"""Compile caffe.proto and forks.proto: `python -m prototxt.schema.generate`.

Needs grpcio-tools, which nothing else here does: the results (descriptor set and type stubs) are committed.
"""

from __future__ import annotations

import importlib
import re
import tempfile
from pathlib import Path

SCHEMA = Path(__file__).parent
PROTOS = ("caffe.proto", "forks.proto")
_MODULE = b"""from google.protobuf.descriptor_pool import DescriptorPool as _DescriptorPool
POOL: _DescriptorPool
def file_names(file: _descriptor.FileDescriptor) -> dict[str, object]: ...
"""
STUBS = {"caffe_pb2.pyi": "messages.pyi", "forks_pb2.pyi": "fork_messages.pyi"}


def compile_schema(folder: Path) -> dict[str, bytes]:
    """Compile in the empty `folder`; return the package's files to write: relative path -> content."""
    protoc = importlib.import_module("grpc_tools.protoc")
    arguments = ["protoc", f"-I{SCHEMA}", f"--descriptor_set_out={folder / 'schema.binpb'}", f"--pyi_out={folder}"]
    if protoc.main([*arguments, *PROTOS]):
        raise SystemExit(1)
    files = {"schema.binpb": (folder / "schema.binpb").read_bytes()}
    for stub, name in STUBS.items():
        files[name] = _stub((folder / stub).read_text()).encode()
    files["messages.pyi"] += _MODULE
    return files


def _stub(text: str) -> str:
    """Adapt protoc's stub to `mypy --strict` and to this package's module names."""
    text = text.replace("import caffe_pb2 as _caffe_pb2", "from prototxt.schema import messages as _caffe_pb2")
    text = text.replace("    Extensions: _python_message._ExtensionDict\n", "")
    text = text.replace("_Mapping]", "_Mapping[str, _Any]]")
    text = text.replace("_Optional, Union", "_Optional, Any as _Any, Union")
    return re.sub(r"^(\w+_FIELD_NUMBER): _ClassVar\[int\]", r"\1: int", text, flags=re.MULTILINE)


def write_schema() -> None:
    """Write the generated files into the package."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in compile_schema(Path(folder)).items():
            (SCHEMA / name).write_bytes(content)


if __name__ == "__main__":
    write_schema()
