"""Pictures of the synthetic world: meshes, ground, sky, renderers of large and small ones."""
