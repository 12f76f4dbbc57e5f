"""What a run found, for people and for programs: tables, plots, CSV, JSON, timings."""
