#!/usr/bin/env bash
# Set a machine up for developing or trying trisense. Called by make; each part does only what is missing.
#   setup.sh venv PYTHON DIR   a virtual environment with the locked packages and this checkout
#   setup.sh peers             the servers that the tests talk to, from Debian
#   setup.sh npm               npm, for the types of the page's JavaScript
#   setup.sh lock DIR          renew requirements/*.lock from pyproject.toml
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@" 2>/dev/null || sudo "$@"; fi
}

install_debian() {
  if ! command -v apt-get >/dev/null; then
    echo "setup: please install: $* (no apt-get here)" >&2
    return 1
  fi
  echo "setup: installing $* from Debian" >&2
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

venv() {
  local python=$1 dir=$2
  command -v "$python" >/dev/null || install_debian python3
  "$python" - <<'PY' || { echo "setup: Python 3.11 or newer is needed" >&2; exit 2; }
import sys
sys.exit(sys.version_info < (3, 11))
PY
  if [ ! -x "$dir/bin/python" ]; then
    "$python" -m venv "$dir" 2>/dev/null || { rm -rf "$dir"; install_debian python3-venv; "$python" -m venv "$dir"; }
  fi
  echo "setup: installing the locked packages into $dir" >&2
  "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock
  "$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
}

peers() {
  # Debian keeps servers in /usr/sbin, which not every PATH has.
  local PATH=$PATH:/usr/sbin missing=()
  command -v mosquitto >/dev/null || missing+=(mosquitto)
  command -v influxd >/dev/null || missing+=(influxdb)
  command -v victoria-metrics >/dev/null || missing+=(victoria-metrics)
  command -v chromium >/dev/null || missing+=(chromium)
  command -v openssl >/dev/null || missing+=(openssl)
  [ ${#missing[@]} = 0 ] || install_debian "${missing[@]}"
}

npm() {
  type -P npm >/dev/null || install_debian npm
}

lock() {
  local python=$1/bin/python file
  "$python" -m pip install --quiet --disable-pip-version-check uv
  compile() {
    "$python" -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
      --no-emit-index-url --no-header --no-annotate pyproject.toml "$@"
  }
  compile --extra all --group dev --output-file requirements/dev.lock
  for file in edge gateway all; do
    compile --extra "$file" --constraints requirements/dev.lock --output-file "requirements/$file.lock"
  done
}

"$@"
