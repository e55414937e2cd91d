"""Pages that people read: templates, plots, overlay. Knows no bag, no engine and no record."""
