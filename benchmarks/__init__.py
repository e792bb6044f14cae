"""Measurements of the engine and the service, each a ratio taken in one run.

`python -m benchmarks` runs all, `--only NAME` one. Results go to benchmarks/results/NAME.json with
the machine named; the last line printed is one JSON object, name to figure.
"""

from study.environment import prepare_mlflow, prepare_ray

# Ray and MLflow read these settings when they are imported, as the modules here do.
prepare_ray()
prepare_mlflow()
