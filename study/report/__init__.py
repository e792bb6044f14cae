"""The tables and figures of the paper, for any study: Markdown, one HTML page, PNG and CSV.

Reading order: `choices` (which trials are spoken of), `collect` (everything a report reads),
`tables` (what a table is), `paper_tables` and `our_tables`, `ablation` and `pictures` (the
figures), `draw` and `pages` (how they look), `write` (the files).
"""
