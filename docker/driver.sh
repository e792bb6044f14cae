#!/bin/sh
# The command line beside a cluster: `driver.sh submit demo --wait`, `driver.sh status demo`.
#   RAY_API_SERVER_ADDRESS  the head's dashboard, http://host:8265
#   RAY_AUTH_TOKEN_PATH     the file with the cluster's token
#   UDE_STUDY_STORAGE_FILE  the file with the study database's URL
#   UDE_STUDY_ROOT          the folder that every node shares
set -eu
test -s "${RAY_AUTH_TOKEN_PATH:?expected the file with the token}"
export RAY_AUTH_MODE=token
exec ude-study "$@"
