#!/bin/sh
# Makes the certificates by which masters and workers prove their roles to each other, and renews them.
#
#   certificates.sh           makes what is missing, invalid, or ends within 60 days
#   certificates.sh renew     replaces all certificates; the authority stays
#
# The authority's key stays in its folder. Each role of each service has a folder with its certificate and key, where
# `current` is replaced as a whole, so that masters and workers use it without a restart.
set -eu
umask 077

authority=${AUTHORITY_FOLDER:-/authority}
roles=${ROLES_FOLDER:-/tls}
owner=${OWNER:-10001:10001}
days=${CERTIFICATE_DAYS:-365}
early=$((60 * 24 * 3600))

say() { echo "certificates: $*" >&2; }

new() { # new ARGUMENT...: a certificate with a new key
  problem=$(openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "$@" 2>&1) || {
    say "$problem"
    return 1
  }
}

public_key_of() { # public_key_of COMMAND FILE: of a key (pkey) or a certificate (x509)
  case $1 in
    pkey) openssl pkey -in "$2" -pubout 2>/dev/null ;;
    x509) openssl x509 -in "$2" -noout -pubkey 2>/dev/null ;;
  esac
}

is_pair() { # is_pair CERTIFICATE KEY
  [ -s "$1" ] && [ -s "$2" ] && [ "$(public_key_of x509 "$1")" = "$(public_key_of pkey "$2")" ]
}

make_authority() {
  rm -f "$authority/ca.key" "$authority/ca.crt"
  new -days 3650 -subj "/CN=the0 on this host" -addext keyUsage=critical,keyCertSign,cRLSign \
    -keyout "$authority/ca.key.new" -out "$authority/ca.crt.new"
  mv "$authority/ca.key.new" "$authority/ca.key"
  mv "$authority/ca.crt.new" "$authority/ca.crt"
  say "made a new authority"
}

is_valid() { # is_valid FOLDER
  is_pair "$1/tls.crt" "$1/tls.key" \
    && openssl x509 -in "$1/tls.crt" -noout -checkend "$early" >/dev/null 2>&1 \
    && openssl verify -CAfile "$authority/ca.crt" "$1/tls.crt" >/dev/null 2>&1 \
    && cmp -s "$authority/ca.crt" "$1/ca.crt"
}

issue() { # issue FOLDER NAME
  made=$(mktemp -d "$1/made.XXXXXXXX")
  cp "$authority/ca.crt" "$made/ca.crt"
  new -days "$days" -subj "/CN=$2" -addext basicConstraints=critical,CA:FALSE -addext "subjectAltName=DNS:$2" \
    -CA "$authority/ca.crt" -CAkey "$authority/ca.key" -keyout "$made/tls.key" -out "$made/tls.crt"
  chown -R "$owner" "$made"
  ln -sfn "${made##*/}" "$1/current.new"
  mv -T "$1/current.new" "$1/current"
  for old in "$1"/made.*; do
    [ "$old" = "$made" ] || rm -rf "$old"
  done
  say "made the certificate of $2"
}

# One at a time.
exec 9>"$authority/lock"
flock 9

is_pair "$authority/ca.crt" "$authority/ca.key" || make_authority
for service in bot-runner backtest-runner bot-scheduler; do
  for role in master worker; do
    folder="$roles/$service-$role"
    mkdir -p "$folder"
    chown "$owner" "$folder"
    if [ "${1:-}" = renew ] || ! is_valid "$folder/current"; then issue "$folder" "$role.$service.the0"; fi
  done
done
