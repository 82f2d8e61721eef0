"""Give MLflow its two users beside the administrator: `builder` for workers, `device` for those that pull.

    python users.py

With MLFLOW_TRACKING_URI and the administrator's MLFLOW_TRACKING_USERNAME and _PASSWORD. Both exist afterwards with the passwords
of BUILDER_PASSWORD and DEVICE_PASSWORD, whatever they had: run it again to change one. Everybody reads everything, and what
a user makes it may change (deploy/mlflow/auth.ini); `device` may make nothing (deploy/mlflow/readers.py).
"""

from __future__ import annotations

import os

USERS = ("builder", "device")


def main() -> None:
    from mlflow.exceptions import RestException
    from mlflow.server.auth.client import AuthServiceClient

    client = AuthServiceClient(os.environ["MLFLOW_TRACKING_URI"])
    for name in USERS:
        password = os.environ[f"{name.upper()}_PASSWORD"]
        try:
            client.get_user(name)
        except RestException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_user(name, password)
        else:
            client.update_user_password(name, password)


if __name__ == "__main__":
    main()
