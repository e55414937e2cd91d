"""Turns a prediction into messages: policies, table of outputs, publication per t0."""
