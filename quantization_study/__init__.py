"""Studies what few bits cost the shipped checkpoint: recipes, solvers, distillation, figures."""
