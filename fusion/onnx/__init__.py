"""ONNX files: graphs, conversion to torch, ONNX Runtime."""
