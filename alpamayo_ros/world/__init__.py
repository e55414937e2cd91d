"""The synthetic drive: road, motion, cameras and pictures. Knows no torch, no ROS, no files."""
