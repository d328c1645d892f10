#!/bin/sh
# Run while an image is built: what the lock names, and one of our wheels, into /opt/venv; and the user.
#
#   sh install.sh tokenstore|seit_train
#
# A network with a certificate authority of its own gives it as the secret `ca`; no layer keeps it.
set -eu

if [ -s /run/secrets/ca.pem ]; then export PIP_CERT=/run/secrets/ca.pem; fi
[ -d /opt/venv ] || python3 -m venv /opt/venv
/opt/venv/bin/pip install --no-cache-dir --require-hashes --requirement /opt/lock/requirements.lock
/opt/venv/bin/pip install --no-cache-dir --no-deps --no-index /wheels/"$1"-*.whl
/opt/venv/bin/pip check
if ! id token >/dev/null 2>&1; then
    groupadd --gid 10001 token
    useradd --uid 10001 --gid token --create-home token
    mkdir -p /data /cache
    chown token:token /data /cache
    chmod 1777 /cache # for whoever runs it with another --user
fi
