"""Snapshots of a run, in Caffe's files and an exact state beside them, and resuming from them."""
