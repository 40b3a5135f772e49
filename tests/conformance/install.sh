#!/usr/bin/env bash
# Install the Autobahn|Testsuite (wstest) into .conformance/venv of this checkout.
#
#   install.sh            does nothing when a working wstest is there
#
# wstest needs a CPython 2.7 with ssl and zlib: $PYTHON27, or one of pyenv's, or python2.7 on the PATH.
# exit status: 0 there is a working wstest; 2 there is none, and why is said.
set -u
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=$(cd "$here/../.." && pwd)/.conformance
venv=$home/venv
log=$home/install.log

die() { echo "conformance: $*" >&2; exit 2; }

find_python27() {
  local candidate
  for candidate in "${PYTHON27:-}" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7 python2.7; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys, ssl, zlib; sys.exit(sys.version_info[:2] != (2, 7))' >/dev/null 2>&1 </dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

# Everything by exact version, and installed with --no-deps, so that nothing is left to the resolver of an old pip.
pins() {
  cat <<'PINS'
autobahntestsuite==25.10.1
autobahn==0.10.9
txaio==2.1.0
Twisted==19.10.0
zope.interface==4.6.0
incremental==16.10.1
constantly==15.1.0
Automat==22.10.0
hyperlink==21.0.0
idna==2.10
typing==3.10.0.0
PyHamcrest==1.10.1
attrs==21.4.0
six==1.16.0
pyOpenSSL==19.1.0
cryptography==3.3.2
cffi==1.15.1
pycparser==2.21
enum34==1.1.10
ipaddress==1.0.23
service-identity==18.1.0
pyasn1==0.5.1
pyasn1-modules==0.3.0
klein==17.10.0
Werkzeug==1.0.1
Jinja2==2.11.3
MarkupSafe==1.1.1
unittest2==1.1.0
traceback2==1.4.0
linecache2==1.0.0
argparse==1.4.0
PINS
}
accelerator='wsaccel==0.6.6'  # UTF-8 checks and masking in C: without it 9.*, 12.* and 13.* take several times longer

install() (
  set -e
  export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_PYTHON_VERSION_WARNING=1
  pins >"$tool/pins.txt"
  rm -rf "$venv"
  # 20.21 is the last virtualenv that makes environments for 2.7; it brings a pip that still runs there
  "${PYTHON3:-python3}" -m venv "$tool/py3"
  "$tool/py3/bin/python" -m pip install 'virtualenv==20.21.1' 'platformdirs<4' 'filelock<4'
  "$tool/py3/bin/python" -m virtualenv --app-data "$tool/app-data" --no-download -p "$python27" "$venv"
  "$venv/bin/python" -m pip install 'setuptools==44.0.0'
  "$venv/bin/python" -m pip install --no-deps -r "$tool/pins.txt"
)

works() { [ -s "$home/cases.txt" ] && [ -x "$venv/bin/python" ] && "$venv/bin/python" "$here/wstest_local.py" -a >/dev/null 2>&1; }

works && exit 0
python27=$(find_python27) || die "no CPython 2.7 with ssl and zlib found; set PYTHON27"
mkdir -p "$home" || die "cannot make $home"
tool=$(mktemp -d "$home/tool.XXXXXX") || die "cannot make a folder in $home"
trap 'rm -rf "$tool"' EXIT
echo "installing the Autobahn test suite into .conformance/venv (log: .conformance/install.log)"
if ! install >"$log" 2>&1 </dev/null; then
  tail -n 25 "$log" >&2
  die "the installation failed"
fi
"$venv/bin/python" -m pip install --no-deps "$accelerator" >>"$log" 2>&1 </dev/null ||
  echo "conformance: $accelerator did not build (is there a C compiler?); going on without it, much slower" >&2
"$venv/bin/python" "$here/list_cases.py" >"$home/cases.txt" || die "cannot list the cases"
works || die "no working wstest in $venv; see $log"
