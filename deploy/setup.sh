#!/bin/sh
# Makes this checkout ready: a virtual environment with the pinned packages, and the distribution's programs that are missing.
#
#   deploy/setup.sh demo    RabbitMQ
#   deploy/setup.sh test    RabbitMQ, Prometheus, with which the rules and the dashboards are tested, Chromium, a C++ compiler
#
# Does nothing, quickly, when all is there. Starts no service and stops none.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "setup: $*" >&2; }
fail() { printf '%s\n' "error: $*" >&2; exit 1; }

as_root() { # run a command as root, when there are rights to
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
    command -v apt-get >/dev/null 2>&1 || return 1
    [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; }
}

install_packages() { # install_packages REASON PACKAGE...
    reason=$1
    shift
    may_install || fail "$reason. Install it with: sudo apt-get update && sudo apt-get install --no-install-recommends $*   then run the same command again"
    say "$reason: installing $* with apt-get"
    as_root apt-get update -q >/dev/null || fail "apt-get update failed; check the network and /etc/apt/sources.list"
    # Packages of servers start them at once. Nothing here may run on this machine's ports, so that is forbidden for the moment.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        trap 'as_root rm -f $policy' EXIT
        trap 'exit 130' INT TERM
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod 755 $policy
    fi
    status=0
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >/dev/null 2>&1 || status=$?
    [ $status -eq 0 ] || fail "apt-get install $* failed (exit $status); run it by hand to see why"
}

find_python() {
    for name in python3.13 python3.12 python3.11 python3; do
        if command -v $name >/dev/null 2>&1 && $name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v $name
            return 0
        fi
    done
    return 1
}

make_environment() {
    python=$(find_python) || {
        install_packages "Python 3.11 or newer is missing" python3 python3-venv
        python=$(find_python) || fail "this distribution's Python is older than 3.11; install a newer one and run this again"
    }
    if ! $python -c 'import ensurepip, venv' 2>/dev/null; then
        version=$($python -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        install_packages "Python's venv module is missing" "$version"
    fi
    say "making the virtual environment .venv (several minutes the first time: torch is large)"
    rm -rf .venv
    $python -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch numpy ||
        fail "pip could not install torch; the lines above say why (network, disk space?)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]' ||
        fail "pip could not install the packages; the lines above say why"
}

what=${1:-demo}
wanted=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
stamp=.venv/.ready
if [ ! -f $stamp ] || [ "$(cat $stamp)" != "$wanted" ]; then
    make_environment
    printf '%s\n' "$wanted" >$stamp
fi

[ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] || install_packages "RabbitMQ is missing" rabbitmq-server
if [ "$what" = test ]; then
    command -v promtool >/dev/null 2>&1 || install_packages "Prometheus is missing (the tests check rules and dashboards with it)" prometheus
    command -v g++ >/dev/null 2>&1 || install_packages "a C++ compiler is missing (torch.compile is tested with it)" g++
    headers=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["include"] + "/Python.h")')
    [ -e "$headers" ] || install_packages "Python's headers are missing (torch.compile is tested with them)" python3-dev
    command -v chromedriver >/dev/null 2>&1 || install_packages "Chromium is missing (the device's page is tested in it)" chromium chromium-driver
fi
