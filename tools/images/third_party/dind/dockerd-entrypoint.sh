#!/bin/sh
# What the entry point of docker:28-dind does, in the same order: it decides by the first argument and
# DOCKER_TLS_CERTDIR where the engine listens, and starts the engine through `docker-init` and moby's `dind`.
set -eu

make_certificates() {
	folder=$1
	mkdir -p "$folder/ca" "$folder/server" "$folder/client"
	[ ! -s "$folder/server/cert.pem" ] || return 0
	openssl req -x509 -newkey rsa:2048 -nodes -days 825 -subj '/CN=docker:dind CA' \
		-keyout "$folder/ca/key.pem" -out "$folder/ca/cert.pem"
	for side in server client; do
		openssl req -newkey rsa:2048 -nodes -subj "/CN=docker:dind $side" \
			-keyout "$folder/$side/key.pem" -out "$folder/$side/csr.pem"
		printf 'extendedKeyUsage=%sAuth\nsubjectAltName=DNS:%s,DNS:docker,DNS:localhost,IP:127.0.0.1\n' \
			"$side" "$(hostname)" > "$folder/$side/extensions"
		openssl x509 -req -days 825 -CA "$folder/ca/cert.pem" -CAkey "$folder/ca/key.pem" -CAcreateserial \
			-in "$folder/$side/csr.pem" -extfile "$folder/$side/extensions" -out "$folder/$side/cert.pem"
		cp "$folder/ca/cert.pem" "$folder/$side/ca.pem"
	done
}

# Without arguments, or with options alone, the default addresses come first.
if [ "$#" -eq 0 ] || [ "${1#-}" != "$1" ]; then
	if [ -n "${DOCKER_TLS_CERTDIR:-}" ]; then
		make_certificates "$DOCKER_TLS_CERTDIR"
		server=$DOCKER_TLS_CERTDIR/server
		set -- --host=tcp://0.0.0.0:2376 --tlsverify --tlscacert "$server/ca.pem" \
			--tlscert "$server/cert.pem" --tlskey "$server/key.pem" "$@"
	else
		set -- --host=tcp://0.0.0.0:2375 --tls=false "$@"
	fi
	set -- dockerd --host=unix:///var/run/docker.sock "$@"
fi

if [ "$1" = dockerd ]; then
	find /run /var/run -iname 'docker*.pid' -delete || :
	# The host decides which of the two backends its kernel serves.
	if ! iptables -nL > /dev/null 2>&1; then
		iptables-legacy -nL > /dev/null && export PATH="/usr/local/sbin/.iptables-legacy:$PATH"
	fi
	set -- docker-init -- "$@"
	set -- dind "$@"
else
	set -- docker "$@"
fi
exec "$@"
