#!/bin/sh
# Saves what must not be lost, and brings it back.
#
#   backup.sh save FOLDER       a new folder below FOLDER, with MongoDB's databases and all objects
#   backup.sh restore FOLDER    such a folder; stops masters and workers for that time
#
# Users and passwords are not in it: those of .env stay.
set -eu
cd "$(dirname "$0")"

COMPOSE=${COMPOSE:-docker compose}
databases="bot_runner backtest_runner bot_scheduler"
processes="bot-runner-master bot-runner-master-2 bot-runner-worker backtest-runner-master backtest-runner-master-2
  backtest-runner-worker bot-scheduler-master bot-scheduler-master-2 bot-scheduler-worker"

say() { echo "backup: $*" >&2; }

fail() {
  say "$*"
  exit 1
}

mongo() { # mongo PROGRAM ARGUMENT...: with the password in a file, since everybody on the host sees command lines
  # shellcheck disable=SC2016 # for the shell in the container
  $COMPOSE exec -T mongo sh -c 'umask 077
    config=$(mktemp)
    trap "rm -f $config" EXIT
    printf "password: %s\n" "$MONGO_INITDB_ROOT_PASSWORD" > "$config"
    program=$1
    shift
    "$program" --config="$config" --username="$MONGO_INITDB_ROOT_USERNAME" --authenticationDatabase=admin --quiet "$@"
  ' sh "$@"
}

save() { # save FOLDER
  # Readable by their owner alone: configs often hold keys.
  umask 077
  folder="$1/$(date -u +%Y%m%d-%H%M%S)"
  mkdir -p "$1"
  mkdir "$folder.part"
  # Databases first: whatever they refer to is then among the objects.
  for database in $databases; do
    mongo mongodump --db="$database" --archive --gzip > "$folder.part/$database.mongo.gz"
  done
  $COMPOSE exec -T s3 tar -czf - -C /data . > "$folder.part/objects.tgz"
  mv "$folder.part" "$folder"
  say "wrote $folder; it holds configs and code of all bots: keep it as you keep passwords"
}

restore() { # restore FOLDER
  for database in $databases; do
    [ -f "$1/$database.mongo.gz" ] || fail "$1 has no $database.mongo.gz: name a folder that 'make backup' wrote"
  done
  [ -f "$1/objects.tgz" ] || fail "$1 has no objects.tgz: name a folder that 'make backup' wrote"
  # shellcheck disable=SC2086 # several words
  $COMPOSE stop $processes s3
  $COMPOSE up --detach --no-deps --wait --wait-timeout 300 mongo
  for database in $databases; do
    mongo mongorestore --nsInclude="$database.*" --drop --archive --gzip < "$1/$database.mongo.gz"
  done
  # A container that outlived its worker must not have a higher epoch than its next owner.
  $COMPOSE exec -T mongo mongosh --quiet --norc --eval "$(cat raise-epochs.js)"
  $COMPOSE run --rm --no-deps -T --entrypoint /bin/sh s3 \
    -c 'find /data -mindepth 1 -delete && tar -xzf - -C /data' < "$1/objects.tgz"
  $COMPOSE up --detach --wait --wait-timeout 300
  say "restored $1"
}

[ -f .env ] || fail "no .env here: run 'make up' first"
case ${1:-} in
  save) save "${2:?names no folder}" ;;
  restore) restore "${2:?names no folder}" ;;
  *) fail "says what: save FOLDER or restore FOLDER" ;;
esac
