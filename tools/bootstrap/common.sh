# What the scripts `pants` and `runtime` share; sourced, with `script` set to the name of the script.

say() { echo "$script: $*" >&2; }

# Print the folder that both scripts install into, and create it.
cache_folder() {
  local folder=${RUNTIME_CACHE_DIR:-${XDG_CACHE_HOME:-${HOME:+$HOME/.cache}}}
  [ -n "${RUNTIME_CACHE_DIR:-}" ] || folder=${folder:+$folder/the0-runtime}
  if [ -z "$folder" ] || ! mkdir -p "$folder" 2>/dev/null || [ ! -w "$folder" ]; then
    say "cannot write to the cache folder ${folder:-(HOME is not set)};" \
      "remedy: set RUNTIME_CACHE_DIR=/path/to/a/writable/folder"
    return 1
  fi
  (cd "$folder" && pwd)
}

# Run a command while no other script installs anything. Each result is built beside its final name and renamed, so that
# nothing half-made is ever left under it.
locked() { # locked COMMAND...
  (
    exec 9>"$cache/install.lock"
    if command -v flock >/dev/null; then flock 9; fi
    "$@" 9>&-
  )
}
