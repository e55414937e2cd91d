"""Drives in the simulator AlpaSim: observations become contexts, predictions become poses."""
