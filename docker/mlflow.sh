#!/bin/sh
# MLflow with the studies' pages, behind passwords. Secrets come from files: none is in the command line or in `docker inspect`.
#   MLFLOW_DATABASE_FILE, MLFLOW_USERS_FILE   files with the URLs of its two databases
#   MLFLOW_ADMIN_PASSWORD_FILE                for the first start; afterwards it is in the database
#   MLFLOW_SECRET_KEY_FILE                    signs the forms of its pages
#   MLFLOW_ARTIFACTS                          a folder, or the URL of an object store
#   MLFLOW_ALLOWED_HOSTS                      the Host headers it answers to
#   UDE_STUDY_ROOT, UDE_STUDY_STORAGE_FILE    the studies that the pages under /ude show
#   MLFLOW_HOST (0.0.0.0), MLFLOW_PORT (5000), MLFLOW_APP (ude-study-auth), MLFLOW_ADMIN (admin)
set -eu
umask 077
settings=$(mktemp)
users=$(sed 's/%/%%/g' "${MLFLOW_USERS_FILE:?expected the file with the URL of the users}")
cat >"$settings" <<EOF
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = $users
admin_username = ${MLFLOW_ADMIN:-admin}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
EOF

MLFLOW_BACKEND_STORE_URI=$(cat "${MLFLOW_DATABASE_FILE:?expected the file with the database URL}")
MLFLOW_AUTH_ADMIN_PASSWORD=$(cat "${MLFLOW_ADMIN_PASSWORD_FILE:?expected a file}")
MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat "${MLFLOW_SECRET_KEY_FILE:?expected a file}")
export MLFLOW_BACKEND_STORE_URI MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY
export MLFLOW_AUTH_CONFIG_PATH="$settings"
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
export MLFLOW_DISABLE_TELEMETRY=true

exec mlflow server \
    --app-name "${MLFLOW_APP:-ude-study-auth}" \
    --host "${MLFLOW_HOST:-0.0.0.0}" \
    --port "${MLFLOW_PORT:-5000}" \
    --allowed-hosts "${MLFLOW_ALLOWED_HOSTS:?expected the hosts it answers to}" \
    --artifacts-destination "${MLFLOW_ARTIFACTS:?expected a folder or a URL}" \
    --workers 1
