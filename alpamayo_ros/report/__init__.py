"""Makes pages for people: templates, plots, overlay. Knows no bag, no engine, no record."""
