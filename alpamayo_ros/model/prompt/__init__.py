"""Prompts: images, history and route to patches and token ids, and generated ids to text."""
