"""Cohorts: `base` (what the engine sees), `csv_cohort`, `phantom`, `splits` (patients), `bias`."""
