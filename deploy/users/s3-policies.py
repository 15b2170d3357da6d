"""Print what each role needs of the S3 server, as policies: a key for each, which reaches its buckets alone.

    s3-policies.py user ROLE        for the user of a role, as AWS and MinIO take it (ROLE: bot-runner-worker, ...)
    s3-policies.py bucket BUCKET    for a bucket, as VersityGW takes it; the access keys are the names of the roles
    s3-policies.py apply            creates the buckets, and the users and policies of a VersityGW with --iam-dir

Buckets have the names of MINIO_BOTS_BUCKET, MINIO_LOGS_BUCKET, MINIO_RESULTS_BUCKET, MINIO_STATE_BUCKET and
MINIO_DATA_BUCKET, or the usual ones. They must exist: no role may create one.

`apply` may be repeated, and sets secrets that have changed. It takes the root's key as MINIO_ACCESS_KEY_ID and
MINIO_SECRET_ACCESS_KEY, and the secrets of the roles as S3_SECRET_KEY_BOT_RUNNER_WORKER and so on.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

SERVICES = ("bot-runner", "backtest-runner", "bot-scheduler")
ROLES = tuple(f"{service}-{role}" for service in SERVICES for role in ("master", "worker"))

CODE = os.environ.get("MINIO_BOTS_BUCKET", "bots")
DATA = os.environ.get("MINIO_DATA_BUCKET", CODE)
LOGS = os.environ.get("MINIO_LOGS_BUCKET", "logs")
RESULTS = os.environ.get("MINIO_RESULTS_BUCKET", "results")
STATE = os.environ.get("MINIO_STATE_BUCKET", "bot-state")
BUCKETS = (CODE, DATA, LOGS, RESULTS, STATE)

# Of the bucket itself. Every process looks whether the buckets exist.
SEE = ("s3:GetBucketLocation", "s3:ListBucket")
LIST_UPLOADS = ("s3:ListBucketMultipartUploads",)
# Of its objects.
READ = ("s3:GetObject",)
SWEEP = ("s3:GetObject", "s3:DeleteObject")
WRITE = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")

Rights = Mapping[str, Sequence[str]]


def rights_of(role: str) -> Rights:
    """Return what a role may do with the objects of each bucket."""
    service, _, part = role.rpartition("-")
    own = RESULTS if service == "backtest-runner" else STATE
    if part == "master":
        # Masters remove what is old, and read what refers to shared data.
        return {CODE: SWEEP, DATA: SWEEP, LOGS: SWEEP, own: SWEEP}
    return {CODE: READ, DATA: READ, LOGS: WRITE, RESULTS: (), STATE: (), own: WRITE}


def statements(bucket: str, actions: Sequence[str]) -> list[dict[str, object]]:
    """Return the statements of a policy: for the bucket, and for its objects."""
    on_bucket = [*SEE, *(LIST_UPLOADS if actions == WRITE else ())]
    found: list[dict[str, object]] = [
        {"Effect": "Allow", "Action": on_bucket, "Resource": [f"arn:aws:s3:::{bucket}"]},
    ]
    if actions:
        found.append({"Effect": "Allow", "Action": list(actions), "Resource": [f"arn:aws:s3:::{bucket}/*"]})
    return found


def user_policy(role: str) -> dict[str, object]:
    """Return the policy of a role's user."""
    found = [statement for bucket, actions in rights_of(role).items() for statement in statements(bucket, actions)]
    return {"Version": "2012-10-17", "Statement": found}


def bucket_policy(bucket: str) -> dict[str, object]:
    """Return the policy of a bucket for all roles."""
    found = [
        {"Principal": [role], **statement}
        for role in ROLES
        if (actions := rights_of(role).get(bucket)) is not None
        for statement in statements(bucket, actions)
    ]
    return {"Version": "2012-10-17", "Statement": found}


class Administration:
    """Users of a VersityGW, by its interface for administrators.

    Args:
        url: of the server, without a path.
        key, secret: of its root.

    Raises:
        RuntimeError: from each call, the server refuses it; the message has its answer.
    """

    def __init__(self, url: str, key: str, secret: str) -> None:
        self._url = url
        self._key = key
        self._secret = secret

    def set_user(self, access: str, secret: str) -> None:
        """Create a user without rights of its own, or set the secret of one that exists."""
        fields = f"<Access>{escape(access)}</Access><Secret>{escape(secret)}</Secret><Role>user</Role>"
        status, answer = self._send("/create-user", f"<Account>{fields}</Account>")
        if status == 409:
            status, answer = self._send(f"/update-user?access={access}", f"<MutableProps>{fields}</MutableProps>")
        if status >= 300:
            raise RuntimeError(f"the S3 server does not set the user {access!r}: it answers {status} {answer}")

    def _send(self, path: str, body: str) -> tuple[int, str]:
        import urllib3
        from minio.credentials.credentials import Credentials
        from minio.signer import sign_v4_s3

        url = urlsplit(f"{self._url}{path}")
        now, digest = datetime.now(UTC), sha256(body.encode()).hexdigest()
        signed = sign_v4_s3(
            method="PATCH",
            url=url,
            region="us-east-1",
            headers={
                "Host": url.netloc,
                "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
                "x-amz-content-sha256": digest,
            },
            credentials=Credentials(self._key, self._secret),
            content_sha256=digest,
            date=now,
        )
        headers = {name: str(value) for name, value in signed.items()}
        answer = urllib3.request("PATCH", url.geturl(), body=body, headers=headers, timeout=30, retries=False)
        return answer.status, answer.data.decode(errors="replace")


def secret_of(role: str) -> str:
    """Return the secret of a role's user, which is in the environment.

    Raises:
        RuntimeError: it is not, or it is empty.
    """
    variable = "S3_SECRET_KEY_" + role.replace("-", "_").upper()
    if not (secret := os.environ.get(variable)):
        raise RuntimeError(f"{variable} has no value: set it to the secret of the user {role!r}")
    return secret


def apply() -> None:
    """Create the buckets and the users of all roles, and set the policies of the buckets. May be repeated."""
    # Printing a policy needs nothing but Python.
    from minio import Minio

    endpoint, key = os.environ["MINIO_ENDPOINT"], os.environ["MINIO_ACCESS_KEY_ID"]
    secret = os.environ["MINIO_SECRET_ACCESS_KEY"]
    secure = os.environ.get("MINIO_USE_SSL", "false") == "true"
    client = Minio(endpoint, key, secret, secure=secure, region="us-east-1")
    administration = Administration(f"{'https' if secure else 'http'}://{endpoint}", key, secret)
    for role in ROLES:
        administration.set_user(role, secret_of(role))
    # A policy names users, which must exist.
    for bucket in dict.fromkeys(BUCKETS):
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)
        client.set_bucket_policy(bucket, json.dumps(bucket_policy(bucket)))


def main(arguments: Sequence[str]) -> int:
    """Do what *arguments* name: print a policy, or apply all."""
    match arguments:
        case ["user", role] if role in ROLES:
            policy = user_policy(role)
        case ["bucket", bucket] if bucket in BUCKETS:
            policy = bucket_policy(bucket)
        case ["apply"]:
            apply()
            return 0
        case _:
            sys.stderr.write(f"{__doc__}\nroles: {', '.join(ROLES)}\n")
            return 2
    sys.stdout.write(f"{json.dumps(policy, indent=2)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
