"""Alpamayo-R1 as an on-vehicle ROS 2 package: camera frames and ego state in, a path out."""
