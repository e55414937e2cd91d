"""What alpamayo_replay does with many recordings and with clips, and what it prints."""
