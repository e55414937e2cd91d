"""The node and everything else that imports rclpy. Converters read messages by attribute."""
