#!/bin/sh
# Prints .env.example with fresh secrets, and with the group of this machine's Docker socket.
#
#   new-env.sh              all of it
#   new-env.sh FILE         only the secrets that FILE lacks, which an older version wrote
set -eu

# 188 random bits. A letter comes first: NATS reads a value that begins with a digit as a number. 48 characters, all of
# them base64: so MongoDB wants a key.
random() {
  printf 'k%.47s' "$(od -An -v -N24 -tx1 /dev/urandom | tr -d ' \n')"
}

socket_group() {
  # On Docker Desktop the socket that containers see is not the one that we see, and belongs to root.
  if [ "$(uname -s)" = Linux ]; then
    stat -L -c %g "${DOCKER_SOCKET:-/var/run/docker.sock}"
  else
    echo 0
  fi
}

while IFS= read -r line; do
  if [ $# -gt 0 ]; then
    case $line in
      *=generate) grep -q "^${line%generate}" "$1" || echo "${line%generate}$(random)" ;;
    esac
    continue
  fi
  case $line in
    *=generate) echo "${line%generate}$(random)" ;;
    *=detect) echo "${line%detect}$(socket_group)" ;;
    # Docker Desktop mounts only some of the host's folders, and /tmp is one of them.
    WORK_DIR=*) if [ "$(uname -s)" = Linux ]; then echo "$line"; else echo WORK_DIR=/tmp/the0-runtime; fi ;;
    *) echo "$line" ;;
  esac
done < "$(dirname "$0")/.env.example"
