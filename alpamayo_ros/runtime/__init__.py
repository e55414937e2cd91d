"""A checkpoint on a device, ready to infer: loading, memory, CUDA graphs, the worker thread."""
