#!/bin/sh
# Build TensorRT's engine of this package on this device, once, and answer a prompt with it.
#
#   sh build_engine.sh                   check this device, build the engine unless it is in the cache
#   sh build_engine.sh --dry-run         say what is here and what would be run; nothing is built
#   sh build_engine.sh --prompt TEXT     build, then answer
#
# The cache is AMOEBA_ENGINES, or amoeba-edge/engines in the user's cache folder. PYTHON names another Python than python3:
# the one that JetPack's TensorRT belongs to is needed, with numpy, tokenizers and jinja2.
set -eu

python=${PYTHON:-python3}
dry_run=no
prompt=

fail() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

check() {
  # check NAME GOOD|BAD EXPLANATION: a bad one ends the run, but not a dry one.
  printf '%-10s %-5s %s\n' "$1" "$2" "$3"
  if [ "$2" = bad ] && [ "$dry_run" = no ]; then
    fail "$1: $3"
  fi
}

while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry_run=yes ;;
    --prompt)
      [ $# -gt 1 ] || fail "--prompt wants a text"
      prompt=$2
      shift
      ;;
    *) fail "unknown argument $1; there are --dry-run and --prompt TEXT" ;;
  esac
  shift
done

# What was named from where this was called is still meant from here on.
absolute() {
  case $1 in
    /*) printf '%s' "$1" ;;
    *) printf '%s/%s' "$PWD" "$1" ;;
  esac
}

case $python in
  */*) python=$(absolute "$python") ;;
esac
if [ -n "${AMOEBA_ENGINES:-}" ]; then
  AMOEBA_ENGINES=$(absolute "$AMOEBA_ENGINES")
  export AMOEBA_ENGINES
fi

CDPATH='' cd -- "$(dirname -- "$0")"
command -v "$python" >/dev/null || fail "$python is not on the PATH; set PYTHON to JetPack's Python"

machine=$(uname -m)
if [ "$machine" = aarch64 ]; then
  check machine good "$machine"
else
  check machine bad "$machine; a Jetson is aarch64"
fi

for module in numpy tokenizers jinja2 tensorrt; do
  if "$python" -c "import $module" 2>/dev/null; then
    check "$module" good "$("$python" -c "import $module; print($module.__version__)" 2>/dev/null || echo installed)"
  elif [ "$module" = tensorrt ]; then
    check "$module" bad "not installed; JetPack has it as python3-libnvinfer"
  else
    check "$module" bad "not installed; $python -m pip install $module"
  fi
done

# The versions that the package is made for are checked here too.
if plan=$("$python" -B -m device.tensorrt_engine plan 2>&1); then
  check versions good "as the package wants them"
else
  check versions bad "$(printf '%s\n' "$plan" | tail -n 1)"
fi

to_build=$(printf '%s\n' "$plan" | sed -n 's/^engine: \(.*\) (not built yet)$/\1/p')
if [ -n "$to_build" ]; then
  folder=$(dirname "$to_build")
  until [ -d "$folder" ]; do
    folder=$(dirname "$folder")
  done
  # An engine is about as large as what it is built from, and the builder has files of its own.
  needed_mb=$(du -sm . | awk '{ printf "%d", 1024 + 1.5 * $1 }')
  free_mb=$(df -Pm "$folder" | awk 'NR == 2 { print $4 }')
  if [ "$free_mb" -ge "$needed_mb" ]; then
    check disk good "$free_mb MB are free in $folder"
  else
    check disk bad "$free_mb MB are free in $folder, building takes up to $needed_mb MB; AMOEBA_ENGINES may name another"
  fi
fi
printf '%s\n' "$plan"

if [ "$dry_run" = yes ]; then
  printf 'would run: %s -B -m device.tensorrt_engine build\n' "$python"
  [ -z "$prompt" ] || printf 'would run: %s run.py --prompt "%s"\n' "$python" "$prompt"
  exit 0
fi

"$python" -B -m device.tensorrt_engine build
if [ -n "$prompt" ]; then
  "$python" run.py --prompt "$prompt"
fi
