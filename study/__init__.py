"""The study service around `ude_core`: configuration, search, distribution, records.

Reading order, the way a study flows: `config` (with `documents`, `sections`, `searched`) →
`sweep` (the driver: `materials`, `lease`, `harvest`) → `tuning` and `searcher` (Ray Tune) →
`trainable` (a worker) → `ledger` (the truth; `records`, `database`, `samplers`, `spaces`) →
`tracking` and `runs` (MLflow) and `progress` (the terminal) → `pareto` → `confirm` → `export`.
`names` builds every name and path; `api` is the way in from Python, `cli` from a shell.
"""
