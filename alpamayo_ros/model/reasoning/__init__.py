"""The text before a path: how tokens are drawn, generated one by one, and drafted ahead."""
