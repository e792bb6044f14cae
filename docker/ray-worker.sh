#!/bin/sh
# A node that runs trials. It may come and go: a trial that loses its node goes on elsewhere.
#   RAY_HEAD_ADDRESS      host:port of the head
#   RAY_AUTH_TOKEN_PATH   the file with the cluster's token
#   RAY_NODE_IP           the address others reach it by (Ray's choice)
#   RAY_RESOURCES         what it offers by a name of its own, as JSON (nothing)
#   RAY_CPUS, RAY_GPUS    what it offers (all it has)
#   RAY_START_OPTIONS     more options for `ray start`
set -eu
test -s "${RAY_AUTH_TOKEN_PATH:?expected the file with the token}"
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=0

# shellcheck disable=SC2086  options are several words
exec ray start --block \
    --address "${RAY_HEAD_ADDRESS:?expected host:port}" \
    ${RAY_NODE_IP:+--node-ip-address "$RAY_NODE_IP"} \
    ${RAY_CPUS:+--num-cpus "$RAY_CPUS"} \
    ${RAY_GPUS:+--num-gpus "$RAY_GPUS"} \
    ${RAY_RESOURCES:+--resources "$RAY_RESOURCES"} \
    ${RAY_START_OPTIONS-}
