#!/usr/bin/env bash
# Run by PostgreSQL's image when its volume is empty: a role and its databases for MLflow, and one of each for Prefect.
set -euo pipefail
: "${MLFLOW_DATABASE_PASSWORD:?}" "${PREFECT_DATABASE_PASSWORD:?}"

psql --set=ON_ERROR_STOP=1 --no-psqlrc --quiet --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv mlflow_password MLFLOW_DATABASE_PASSWORD
\getenv prefect_password PREFECT_DATABASE_PASSWORD
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE ROLE prefect LOGIN PASSWORD :'prefect_password';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
CREATE DATABASE prefect OWNER prefect;
REVOKE CONNECT ON DATABASE mlflow, mlflow_auth, prefect FROM PUBLIC;
SQL
