"""CUDA graphs of vision, prefill, decode step and flow step: recorded once, then replayed.

Python takes longer to launch the 1,500 kernels of a token than the GPU takes to run them.
"""
