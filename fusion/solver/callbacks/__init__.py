"""Callbacks of a run: averaged weights, best weights, early stopping, the loss scale, keeping snapshots."""
