"""How fast the parts are and how much memory they take: engine, node, quantizing, kernels."""
