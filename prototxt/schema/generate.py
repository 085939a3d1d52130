"""Compiles caffe.proto and forks.proto: `python -m prototxt.schema.generate`.

Needs grpcio-tools, which nothing else here does: what it makes (the descriptor set and the type stubs) is committed.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

SCHEMA = Path(__file__).parent
PROTOS = ("caffe.proto", "forks.proto")
STUBS = {"caffe_pb2.pyi": "messages.pyi", "forks_pb2.pyi": "fork_messages.pyi"}


def compile_schema(folder: Path) -> dict[str, bytes]:
    """Compile into the empty `folder`; returns the files of the package to write: path relative to it -> content."""
    protoc = importlib.import_module("grpc_tools.protoc")
    arguments = ["protoc", f"-I{SCHEMA}", f"--descriptor_set_out={folder / 'schema.binpb'}", f"--pyi_out={folder}"]
    if protoc.main([*arguments, *PROTOS]):
        raise SystemExit(1)
    files = {"schema/schema.binpb": (folder / "schema.binpb").read_bytes()}
    for made, kept in STUBS.items():
        text = (folder / made).read_text().replace("import caffe_pb2 as _caffe_pb2", "from prototxt import messages as _caffe_pb2")
        files[kept] = text.encode()
    files["messages.pyi"] += b"\nfrom google.protobuf import descriptor_pool as _descriptor_pool\nPOOL: _descriptor_pool.DescriptorPool\n"
    return files


def main() -> None:
    """Write the generated files into the package."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in compile_schema(Path(folder)).items():
            (SCHEMA.parent / name).write_bytes(content)


if __name__ == "__main__":
    main()
