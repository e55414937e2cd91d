"""Numbers only: displacement errors, the metrics of an evaluation, intervals. Knows no files."""
