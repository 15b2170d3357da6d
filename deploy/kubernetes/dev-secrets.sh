#!/bin/sh
# Makes the Secrets of the overlay dev: passwords of MongoDB, NATS and S3, and the certificates of masters and workers.
#
#   dev-secrets.sh NAMESPACE FOLDER
#
# FOLDER keeps what was made. May be repeated: what FOLDER and the cluster lack is made, such as what a newer version
# needs; the rest stays. KUBECTL names the command.
set -eu
umask 077

[ $# -eq 2 ] || {
  echo "dev-secrets: name the namespace and a folder for what it makes: dev-secrets.sh NAMESPACE FOLDER" >&2
  exit 1
}
namespace=$1
folder=$2
kubectl=${KUBECTL:-kubectl}
backing=$folder/backing-services.env
connections=$folder/connections.env

# NATS reads a value that begins with a digit as a number.
random() { printf 'k%.47s' "$(od -An -v -N24 -tx1 /dev/urandom | tr -d ' \n')"; }

value() { sed -n "s/^$2=//p" "$1"; } # value FILE NAME

keep() { [ -n "$(value "$1" "$2")" ] || echo "$2=$3" >> "$1"; } # keep FILE NAME VALUE: unless it has one

adopt() { # adopt SECRET FILE: what the cluster has, unless the file has something
  [ -s "$2" ] || $kubectl --namespace="$namespace" get secret "$1" --ignore-not-found --output='go-template=
{{- range $name, $value := .data }}{{ $name }}={{ $value | base64decode }}{{ "\n" }}{{ end }}' > "$2"
}

apply() { # apply SECRET FILE
  $kubectl --namespace="$namespace" create secret generic "$1" --dry-run=client --output=yaml --from-env-file="$2" \
    | $kubectl --namespace="$namespace" apply --filename=-
}

mkdir -p "$folder"
adopt the0-backing-services "$backing"
adopt the0-connections "$connections"
keep "$backing" mongo-user the0
for name in mongo-password mongo-key nats-password; do keep "$backing" "$name" "$(random)"; done
keep "$connections" mongo-uri \
  "mongodb://the0:$(value "$backing" mongo-password)@mongo:27017/?replicaSet=rs0&authSource=admin"
for name in s3-access-key s3-secret-key http-token; do keep "$connections" "$name" "$(random)"; done
for service in bot-runner backtest-runner bot-scheduler; do
  for role in master worker; do
    user=$service-$role
    keep "$backing" "mongo-password-$user" "$(random)"
    keep "$connections" "mongo-uri-$user" \
      "mongodb://$user:$(value "$backing" "mongo-password-$user")@mongo:27017/?replicaSet=rs0&authSource=admin"
    keep "$backing" "nats-password-$user" "$(random)"
    keep "$connections" "nats-url-$user" "nats://$user:$(value "$backing" "nats-password-$user")@nats:4222"
    keep "$connections" "s3-access-key-$user" "$user"
    keep "$connections" "s3-secret-key-$user" "$(random)"
  done
done
apply the0-backing-services "$backing"
apply the0-connections "$connections"
"$(dirname "$0")/tls-secrets.sh" "$namespace" "$folder"
