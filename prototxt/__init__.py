"""Caffe files, text and binary: parse, edit, decode, infer shapes, read and write weights. Never imports torch."""
