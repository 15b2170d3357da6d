#!/bin/bash
# What the entry point of mongo:8.0 does: as root it gives the data folders to `mongodb` and goes on as that user; an
# empty data folder gets the root user of the environment, made by a server without a replica set and without a key.
set -Eeuo pipefail

[ "${1:0:1}" != - ] || set -- mongod "$@"
if [[ "$1" == mongo* ]] && [ "$(id -u)" = 0 ]; then
	[ "$1" != mongod ] || find /data/configdb /data/db ! -user mongodb -exec chown mongodb '{}' +
	chown --dereference mongodb "/proc/$$/fd/1" "/proc/$$/fd/2" || :
	exec gosu mongodb "${BASH_SOURCE[0]}" "$@"
fi

first_start() {
	local kept=() skip=
	for argument in "$@"; do
		if [ -n "$skip" ]; then
			skip=
			continue
		fi
		case "$argument" in
			--replSet | --keyFile | --bind_ip) skip=1 ;;
			--replSet=* | --keyFile=* | --bind_ip=* | --bind_ip_all | --auth) ;;
			*) kept+=("$argument") ;;
		esac
	done
	# On the loopback alone: a client that finds a server without a replica set there drops its address for good.
	local address=127.0.0.1 pid_file=/tmp/docker-entrypoint-mongod.pid
	"${kept[@]}" --bind_ip "$address" --port 27017 --fork --logappend --logpath /data/db/docker-initdb.log \
		--pidfilepath "$pid_file"
	mongosh --host "$address" --quiet --norc admin --eval '
		db.createUser({
			user: process.env.MONGO_INITDB_ROOT_USERNAME,
			pwd: process.env.MONGO_INITDB_ROOT_PASSWORD,
			roles: [{role: "root", db: "admin"}]})'
	"${kept[@]}" --shutdown
	rm -f "$pid_file"
}

if [ "$1" = mongod ]; then
	if [ -n "${MONGO_INITDB_ROOT_USERNAME:-}" ] && [ -n "${MONGO_INITDB_ROOT_PASSWORD:-}" ]; then
		set -- "$@" --auth
		[ -e /data/db/WiredTiger ] || first_start "$@"
	elif [ -n "${MONGO_INITDB_ROOT_USERNAME:-}${MONGO_INITDB_ROOT_PASSWORD:-}" ]; then
		echo >&2 "error: MONGO_INITDB_ROOT_USERNAME and MONGO_INITDB_ROOT_PASSWORD are needed together"
		exit 1
	fi
	[[ " $* " == *" --bind_ip"* ]] || set -- "$@" --bind_ip_all
	unset "${!MONGO_INITDB_@}"
fi
exec "$@"
