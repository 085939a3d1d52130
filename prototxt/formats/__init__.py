"""Binary files: caffemodel, HDF5, safetensors, solver states, records."""
