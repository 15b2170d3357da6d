#!/bin/sh
# Start the Docker engine, with a control group for its containers that has a lower memory limit than the engine's own.
#
#   engine.sh dockerd ARGUMENT...
#
# At the limit of a group the kernel kills one of the group's processes. In the engine's own that may be dockerd, and all
# bots end with it. In the group of the containers it can only be a bot.
#
# When the processors are busy, all bots together weigh a tenth of one process of the engine: it starts and stops bots at
# once. Against everything else on the node bots have what the pod has, whose weight is its CPU request.
#
# Environment: ENGINE_LIMIT_MB, the memory limit of this container; ENGINE_MEMORY_MB, that of all bots together. Without
# the second, or with an empty one, bots get what the engine does not need itself. IMAGE_CACHE_DIR, a folder of the node
# with archives of the images of bots; without it, the engine begins empty.
set -eu

engine_needs_mb=512
bots_mb=${ENGINE_MEMORY_MB:-$((ENGINE_LIMIT_MB - engine_needs_mb))}
if [ "$bots_mb" -gt $((ENGINE_LIMIT_MB - engine_needs_mb)) ]; then
	echo "ENGINE_MEMORY_MB=$bots_mb leaves the engine less than $engine_needs_mb MiB of the ${ENGINE_LIMIT_MB} MiB of" \
		"its container: lower it, or raise the container's limit" >&2
	exit 1
fi
bots_bytes=$((bots_mb * 1024 * 1024))

# Print where this container's own group is below the root of a mount. $1: that root, $2: the group's path.
below() {
	root=${1%/}
	case "$2/" in
		"$root"/*) own=${2#"$root"} && echo "${own%/}" ;;
		# In another namespace of groups: the mount begins at the own group.
		*) echo "" ;;
	esac
}

if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
	root=$(awk '$5 == "/sys/fs/cgroup" {root = $4} END {print root}' /proc/self/mountinfo)
	own=$(below "$root" "$(sed -n 's/^0:://p' /proc/self/cgroup)")
	group=/sys/fs/cgroup$own
	# A group with processes cannot give controllers to others below it: they move to a leaf.
	mkdir -p "$group/engine" "$group/bots"
	while pids=$(cat "$group/cgroup.procs") && [ -n "$pids" ]; do
		for pid in $pids; do
			echo "$pid" > "$group/engine/cgroup.procs" || :
		done
	done
	for controller in $(cat "$group/cgroup.controllers"); do
		echo "+$controller" > "$group/cgroup.subtree_control" || :
	done
	echo 1000 > "$group/engine/cpu.weight" 2> /dev/null || :
	echo 0 > "$group/bots/memory.oom.group"
	echo "$bots_bytes" > "$group/bots/memory.max"
else
	# Print the root and the target of a controller's mount. Of a container's mounts the first is the one that the engine
	# uses as well.
	mount_of() {
		awk -v controller="$1" '{
			for (i = 7; i < NF; i++)
				if ($i == "-" && $(i + 1) == "cgroup" && index("," $(i + 3) ",", "," controller ",")) {print $4, $5; exit}
		}' /proc/self/mountinfo
	}

	# Print this container's own group below that root. $1: the controller, $2: the root.
	own_group() {
		below "$2" "$(sed -n "s/^[0-9]*:\([^:]*,\)\{0,1\}$1\(,[^:]*\)\{0,1\}://p" /proc/self/cgroup)"
	}

	found=$(mount_of cpu)
	if [ -n "$found" ]; then
		group=${found#* }$(own_group cpu "${found% *}")
		mkdir -p "$group/bots" && echo 102 > "$group/bots/cpu.shares" || :
	fi
	found=$(mount_of memory)
	own=$(own_group memory "${found% *}")
	group=${found#* }$own
	echo 1 > "$group/memory.use_hierarchy" 2> /dev/null || :
	mkdir -p "$group/bots"
	echo "$bots_bytes" > "$group/bots/memory.limit_in_bytes"
fi

engine() {
	docker --host=unix:///run/engine/docker.sock "$@"
}

# Load the images of bots from the node's cache, then keep there what is pulled, so that the next engine on this node
# needs no registry.
cache_images() {
	images="${PYTHON311_IMAGE:-python:3.11-slim} ${NODEJS20_IMAGE:-node:20-alpine}"
	mkdir -p "$IMAGE_CACHE_DIR"
	until engine version > /dev/null 2>&1; do
		sleep 0.2
	done
	for image in $images; do
		archive=$(archive_of "$image")
		if [ -e "$archive" ]; then
			# Without a complete archive the worker pulls the image.
			engine load --quiet --input "$archive" && touch "$archive" || rm -f "$archive"
		fi
	done
	: > /run/images-loaded
	while sleep 5; do
		for image in $images; do
			archive=$(archive_of "$image")
			if [ ! -e "$archive" ] && engine image inspect "$image" > /dev/null 2>&1; then
				engine save --output "$archive.$HOSTNAME" "$image" && mv "$archive.$HOSTNAME" "$archive" || :
			fi
		done
		# Of images that are not used any more, and of engines that ended during a write.
		find "$IMAGE_CACHE_DIR" -type f -mtime +30 -delete || :
	done
}

archive_of() {
	echo "$IMAGE_CACHE_DIR/$(echo "$1" | sha256sum | cut -c 1-32).tar"
}

if [ -n "${IMAGE_CACHE_DIR:-}" ]; then
	cache_images &
fi

exec dockerd-entrypoint.sh "$@" --cgroup-parent="$own/bots"
