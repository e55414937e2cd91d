"""The evaluation in the synthetic world: scenes, planners, open and closed loop, table."""
