"""PyTorch nets as ONNX files, ONNX files as Caffe nets, and Caffe weights as state dicts."""
