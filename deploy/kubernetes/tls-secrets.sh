#!/bin/sh
# Makes the Secrets of the component tls, and renews them.
#
#   tls-secrets.sh NAMESPACE FOLDER          makes certificates that are missing or end within 60 days
#   tls-secrets.sh NAMESPACE FOLDER renew    replaces all certificates; the authority stays
#
# FOLDER keeps the authority for later renewals: protect it as you protect passwords. KUBECTL names the command. Masters
# and workers use replaced Secrets without a restart, as soon as the kubelet has updated their files.
set -eu
umask 077

fail() {
  echo "tls-secrets: $*" >&2
  exit 1
}

[ $# -ge 2 ] || fail "name the namespace and a folder for the authority: tls-secrets.sh NAMESPACE FOLDER [renew]"
namespace=$1
folder=$2
shift 2
kubectl=${KUBECTL:-kubectl}

mkdir -p "$folder/authority" "$folder/tls"
AUTHORITY_FOLDER="$folder/authority" ROLES_FOLDER="$folder/tls" OWNER="$(id -u):$(id -g)" \
  "$(dirname "$0")/../compose/certificates.sh" "$@"
for role in "$folder"/tls/*/; do
  files="$role/current"
  $kubectl --namespace="$namespace" create secret generic "$(basename "$role")-tls" --dry-run=client --output=yaml \
    --from-file="$files/ca.crt" --from-file="$files/tls.crt" --from-file="$files/tls.key" \
    | $kubectl --namespace="$namespace" apply --filename=-
done
