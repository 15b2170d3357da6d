#!/bin/sh
# As in nats:2.11-alpine: options are nats-server's.
set -e
[ "$#" -eq 0 ] || [ "${1#-}" = "$1" ] || set -- nats-server "$@"
exec "$@"
