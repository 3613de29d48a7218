"""HDF5 files as such: written, read past HDF5, told from others."""
