"""The commands. Arguments and printing only; one file per command."""
