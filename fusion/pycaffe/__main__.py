"""The command `python -m fusion.pycaffe`, which is `fusion-pycaffe`."""

from importlib import import_module

if __name__ == "__main__":
    raise SystemExit(import_module("caffe_fusion_tools.pycaffe").main(prog="python -m fusion.pycaffe"))
