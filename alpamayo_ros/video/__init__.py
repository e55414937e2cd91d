"""Video of a camera, packet by packet: decoded to frames, with losses noticed. Knows no ROS."""
