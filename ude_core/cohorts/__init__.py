"""Cohorts: from a data root to what the engine sees.

Read `base` (the engine's view), `sources` (what a format yields: `csv_source`, `chexpert`, `nih`,
`mimic`), `table` (every cell checked), `table_cohort` (labels, pixels, fingerprint); then `splits`
(patients), `bias` (draws), `cells` (Table 1). `phantom` makes a cohort from nothing.
"""
