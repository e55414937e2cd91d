"""What the node says about itself: /diagnostics once a second and ~/output/status per t0."""
