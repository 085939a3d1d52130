"""The command `python -m fusion`, which is `fusion`."""

from importlib import import_module

if __name__ == "__main__":
    raise SystemExit(import_module("caffe_fusion_tools.commands").main())
