"""Reads and writes rosbag2 folders: storage files, message order, predictions, drives."""
