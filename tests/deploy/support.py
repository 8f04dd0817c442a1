"""A Python that only writes down what it is asked to do."""

FAKE_PYTHON = """#!/usr/bin/env bash
asked="$*"
case "$asked" in
  -V) echo "Python 3.12.1" ;;
  "-m pip --version") ;;
  "-m pip "*)
    echo "${asked#-m pip --disable-pip-version-check }" >>"$CALLS"
    if [[ "$asked" == *--target* ]]; then mkdir -p "$KERNELS"; fi
    sleep "${PIP_SECONDS:-0}"
    if [[ "$asked" == *"torch torchvision" && -n "${NO_CPU_BUILD:-}" ]]; then exit 1; fi
    if [[ "$asked" == *"-e "* && -n "${CUT_OFF:-}" ]]; then kill -9 $PPID; fi
    ;;
  "-c import sglang.launch_server")
    echo "check PYTHONPATH=${PYTHONPATH:-}" >>"$CALLS"
    [ -z "${BROKEN_SGLANG:-}" ] || { echo "ImportError: broken"; exit 1; }
    ;;
esac
"""
