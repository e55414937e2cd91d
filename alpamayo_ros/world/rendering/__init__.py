"""Pictures of the synthetic world: meshes, ground, sky, painters of large and small images."""
