#!/bin/sh
# Builds the images of the three services, and replaces the containers of one version by those of another.
#
#   release.sh build       builds them under the tag TAG, and writes their bills of materials to dist/SERVICE.cdx.json
#   release.sh ensure      the same, but for a tag of its own that is here already
#   release.sh upgrade     a new version: TAG, or a tag made of the time
#   release.sh rollback    the version before
#
# TAG of the environment goes before that of .env. COMPOSE and DOCKER name the commands.
set -eu
cd "$(dirname "$0")"

COMPOSE=${COMPOSE:-docker compose}
DOCKER=${DOCKER:-docker}
services="bot-runner backtest-runner bot-scheduler"

say() { echo "release: $*" >&2; }

fail() {
  say "$*"
  exit 1
}

setting() { # setting NAME: its value in .env
  sed -n "s/^$1=//p" .env | tail -n 1
}

remember() { # remember NAME=VALUE...: in .env, in place of what was there
  umask 077
  cp .env .env.new
  for line in "$@"; do
    { grep -v "^${line%%=*}=" .env.new || true; echo "$line"; } > .env.newer
    mv .env.newer .env.new
  done
  mv .env.new .env
}

image() { # image SERVICE TAG: its id, or nothing
  $DOCKER image inspect --format '{{.Id}}' "the0/$1:$2" 2>/dev/null || true
}

has_images() { # has_images TAG
  for service in $services; do
    [ -n "$(image "$service" "$1")" ] || return 1
  done
}

tag_images() { # tag_images FROM TO
  [ "$1" = "$2" ] && return
  for service in $services; do
    $DOCKER tag "the0/$service:$1" "the0/$service:$2"
  done
}

build() { # build TAG
  (cd ../.. && ./pants package //:bot-runner-image //:backtest-runner-image //:bot-scheduler-image && mkdir -p dist)
  tag_images latest "$1"
  for service in $services; do
    $DOCKER run --rm --network none --entrypoint cat "the0/$service:$1" /app/sbom.cdx.json > "../../dist/$service.cdx.json.new"
    mv "../../dist/$service.cdx.json.new" "../../dist/$service.cdx.json"
  done
  # What the build has replaced has no name any more. Stages are the next build's cache, and go when they are old.
  $DOCKER image prune --force --filter label=the0.image=service >/dev/null
  $DOCKER image prune --force --filter label=the0.image=stage --filter until=168h >/dev/null
}

# Workers without TLS are those of a version that had none; new masters must accept them until they are replaced.
has_workers_without_tls() {
  for service in $services; do
    for worker in $($COMPOSE ps --quiet "$service-worker"); do
      $DOCKER inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$worker" \
        | grep -Eq '^TLS_MODE=(allow|require)$' || return 0
    done
  done
  return 1
}

# Workers of versions before the users of NATS read their answers where those users may not.
older_inbox() { # older_inbox TAG
  $DOCKER run --rm --network none --entrypoint /app/bin/python "the0/bot-runner:$1" -P -c '
import inspect, sys
from libs.core.events.connection import NatsConnection
sys.exit("inbox" not in inspect.signature(NatsConnection.__init__).parameters)' >/dev/null 2>&1 || echo '_INBOX.*.*'
}

# The second ones first, so that a service always has a master that leads or can lead.
replace_masters() {
  for second in -2 ""; do
    # shellcheck disable=SC2046,SC2086 # several words
    $COMPOSE up --detach --no-deps --wait --wait-timeout 300 \
      $(for service in $services; do echo "$service-master$second"; done)
  done
}

# One after another: the new one is ready before an old one is told to stop, and takes what that one gives up.
replace_workers() { # replace_workers SERVICE IMAGE-ID
  workers="$1-worker"
  for old in $($COMPOSE ps --quiet "$workers"); do
    [ "$($DOCKER inspect --format '{{.Image}}' "$old")" = "$2" ] && continue
    count=$($COMPOSE ps --quiet "$workers" | wc -l)
    $COMPOSE up --detach --no-deps --no-recreate --wait --wait-timeout 300 --scale "$workers=$((count + 1))" "$workers"
    $DOCKER stop --time 75 "$old" >/dev/null
    $DOCKER rm --volumes "$old" >/dev/null
    say "replaced a worker of $1"
  done
}

roll_out() { # roll_out TAG PREVIOUS-TAG
  has_images "$1" || fail "no images with the tag $1 here: build them (make images TAG=$1) or load them (docker load)"
  remember "TAG=$1" "PREVIOUS_TAG=$2"
  # The environment goes before .env.
  export TAG="$1"
  $COMPOSE run --rm --no-deps -T certificates
  $COMPOSE run --rm --no-deps -T mongo-users
  inbox=$(older_inbox "$1")
  [ "$inbox" = "$(setting NATS_OLDER_INBOX)" ] || remember "NATS_OLDER_INBOX=$inbox"
  # Before the processes that log in as users which it may lack. The old ones connect again.
  $COMPOSE up --detach --no-deps --wait --wait-timeout 300 nats s3
  $COMPOSE run --rm --no-deps -T s3-users
  mode=$(setting TLS_MODE)
  if [ "${mode:-require}" = require ] && has_workers_without_tls; then
    say "workers have no TLS yet: masters accept both until they are replaced"
    (export TLS_MODE=allow && replace_masters)
    accept_both=yes
  else
    replace_masters
    accept_both=no
  fi
  for service in $services; do
    replace_workers "$service" "$(image "$service" "$1")"
  done
  if [ "$accept_both" = yes ]; then replace_masters; fi
  # The rest: what else the project's file has changed, and the number of workers.
  $COMPOSE up --detach --wait --wait-timeout 300
  say "runs version $1; 'make rollback' goes back to $2"
}

[ -f .env ] || fail "no .env here: run 'make up' first"
current=$(setting TAG)
current=${current:-latest}
wanted=${TAG:-}

case ${1:-} in
  build)
    build "${wanted:-$current}"
    ;;
  ensure)
    wanted=${wanted:-$current}
    if [ "$wanted" = latest ] || ! has_images "$wanted"; then build "$wanted"; fi
    ;;
  upgrade)
    now=$(date -u +%Y%m%d-%H%M%S)
    wanted=${wanted:-$now}
    if [ "$wanted" = "$current" ]; then
      # An upgrade that was interrupted goes on.
      current=$(setting PREVIOUS_TAG)
      current=${current:-$wanted}
    elif [ "$current" = latest ]; then
      # The build moves this tag.
      current="before-$now"
      has_images latest && tag_images latest "$current"
    fi
    if ! has_images "$wanted"; then build "$wanted"; fi
    roll_out "$wanted" "$current"
    ;;
  rollback)
    previous=$(setting PREVIOUS_TAG)
    [ -n "$previous" ] || fail "no version to go back to: PREVIOUS_TAG in .env is what 'make upgrade' replaced"
    roll_out "$previous" "$current"
    ;;
  *)
    fail "says what: build, ensure, upgrade or rollback"
    ;;
esac
