"""Shares work items among workers: this process alone, or the processes of a Ray cluster."""
