"""Several processes: process groups and heartbeats."""
