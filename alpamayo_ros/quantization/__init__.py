"""Weights of few bits: schemes, recipes, solvers, and the layers that hold them."""
