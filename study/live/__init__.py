"""A study kept in memory, for readers that look again and again: the pages, and MLflow's views.

Reading order: `rows` (what is new in the database), `table` (trials as columns), `source` (a study at
one moment), `judged` (its fronts and labels, thousands of trials at once).
"""
