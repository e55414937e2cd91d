"""Builds a Context from stamped frames and poses: buffer, streams, frame selection, history."""
