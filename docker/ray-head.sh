#!/bin/sh
# The head of a Ray cluster: it runs drivers and no trials.
#   RAY_AUTH_TOKEN_PATH   the file with the cluster's token; nobody joins or submits without it
#   RAY_NODE_IP           the address others reach it by (Ray's choice)
#   RAY_PORT (6379), RAY_DASHBOARD_PORT (8265), RAY_DASHBOARD_HOST (0.0.0.0)
#   RAY_START_OPTIONS     more options for `ray start`
# Drivers find in its environment: UDE_STUDY_ROOT, UDE_STUDY_STORAGE_FILE, MLFLOW_TRACKING_URI,
# MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD_FILE.
set -eu
test -s "${RAY_AUTH_TOKEN_PATH:?expected the file with the token}"
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0

# shellcheck disable=SC2086  options are several words
exec ray start --head --block \
    ${RAY_NODE_IP:+--node-ip-address "$RAY_NODE_IP"} \
    --port "${RAY_PORT:-6379}" \
    --dashboard-host "${RAY_DASHBOARD_HOST:-0.0.0.0}" \
    --dashboard-port "${RAY_DASHBOARD_PORT:-8265}" \
    --num-cpus 0 \
    --num-gpus 0 \
    ${RAY_START_OPTIONS-}
