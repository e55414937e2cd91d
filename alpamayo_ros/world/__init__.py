"""The synthetic world: roads, traffic, an expert driver, cameras and weather; no torch, no ROS."""
