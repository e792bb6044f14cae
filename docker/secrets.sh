#!/bin/sh
# Makes the secrets of a cluster, once: `docker/secrets.sh docker/secrets`. What is there stays.
# The folder is closed to others.
#   POSTGRES_HOST    where PostgreSQL answers (postgres)
#   POSTGRES_OPTIONS what follows the database's name in its URLs (nothing)
#   SECRET_MODE      of the files (444: the user of a container is another one; else 600 will do)
set -eu
folder=${1:?expected a folder for the secrets}
host=${POSTGRES_HOST-postgres}
options=${POSTGRES_OPTIONS-}

umask 077
mkdir -p "$folder"
chmod 700 "$folder"

keep() { # name, content
    if [ ! -s "$folder/$1" ]; then
        printf '%s' "$2" >"$folder/$1.new"
        chmod "${SECRET_MODE:-444}" "$folder/$1.new"
        mv "$folder/$1.new" "$folder/$1"
    fi
}
random() {
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

keep postgres_password "$(random)"
keep mlflow_admin_password "$(random)"
keep mlflow_secret_key "$(random)"
keep ray_token "$(random)"
password=$(cat "$folder/postgres_password")
for database in studies mlflow mlflow_users; do
    keep "${database}_url" "postgresql+psycopg2://ude:$password@$host/$database$options"
done
