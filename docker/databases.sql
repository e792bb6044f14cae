-- The database `studies` is made by the image (POSTGRES_DB); MLflow keeps its runs and users apart.
CREATE DATABASE mlflow;
CREATE DATABASE mlflow_users;
