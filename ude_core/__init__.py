"""The engine of UDE Study: learn one universal noise, and measure honestly what it does.

Reading order: `types` (the words), `noise` (the edit), `objective` (Eq. 2), `optimizer` and `gezo`
(Alg. 1), `spsa`, `antithetic` and `cma_es` (beside it), `optimizers` (all by name), `whitebox`,
`evaluator` (where queries are spent; `batching`, `batch_choice`), `surrogate`, `proposals` and
`learner` (epochs), `assets` (done once a study), `heads`, `baselines` (what is compared), `probes`,
`scoring`, `rungs` (a look before the end), `trial` (the front door), `spread` with `replica`,
`messages` and `crew` (over several workers), `confirmation` (the test split), `bundle`.

It never imports Ray, Optuna, MLflow or Typer: a machine with torch alone can run and measure it.
"""
