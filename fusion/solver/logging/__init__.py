"""Reports of a run: displays, Caffe's log, JSON, TensorBoard, timing, memory."""
