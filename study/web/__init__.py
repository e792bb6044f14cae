"""The pages inside the MLflow server: browse the fronts of every study, and export one noise.

Reading order: `server` (how MLflow starts us), `guard` (who may see what: MLflow is asked), `app` (the
routes), `source` (a study kept in memory, brought up to date by `rows`), `table` (its trials as
columns), `front` and `detail` (what the pages are told), `static/` (the page).
"""
