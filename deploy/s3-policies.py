"""Print what each role needs of the S3 server, as policies: a key for each, which reaches its buckets alone.

    s3-policies.py user ROLE        for the user of a role, as AWS and MinIO take it (ROLE: bot-runner-worker, ...)
    s3-policies.py bucket BUCKET    for a bucket, as VersityGW takes it; the access keys are the names of the roles

Buckets have the names of MINIO_BOTS_BUCKET, MINIO_LOGS_BUCKET, MINIO_RESULTS_BUCKET, MINIO_STATE_BUCKET and
MINIO_DATA_BUCKET, or the usual ones. They must exist: no role may create one.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence

SERVICES = ("bot-runner", "backtest-runner", "bot-scheduler")
ROLES = tuple(f"{service}-{role}" for service in SERVICES for role in ("master", "worker"))

CODE = os.environ.get("MINIO_BOTS_BUCKET", "bots")
DATA = os.environ.get("MINIO_DATA_BUCKET", CODE)
LOGS = os.environ.get("MINIO_LOGS_BUCKET", "logs")
RESULTS = os.environ.get("MINIO_RESULTS_BUCKET", "results")
STATE = os.environ.get("MINIO_STATE_BUCKET", "bot-state")

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


def main(arguments: Sequence[str]) -> int:
    """Print the policy that *arguments* name."""
    match arguments:
        case ["user", role] if role in ROLES:
            policy = user_policy(role)
        case ["bucket", bucket] if bucket in (CODE, DATA, LOGS, RESULTS, STATE):
            policy = bucket_policy(bucket)
        case _:
            sys.stderr.write(f"{__doc__}\nroles: {', '.join(ROLES)}\n")
            return 2
    sys.stdout.write(f"{json.dumps(policy, indent=2)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
