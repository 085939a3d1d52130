"""Caffe's schema: caffe.proto, forks.proto, and schema.binpb compiled from both by generate.py."""
