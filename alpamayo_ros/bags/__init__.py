"""rosbag2 in and out: a recording, the synthetic drive as messages, predictions as a bag."""
