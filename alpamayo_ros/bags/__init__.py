"""rosbag2 in and out: storage files, bags by log time or stamp, predictions and drives as bags."""
