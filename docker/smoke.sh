#!/bin/sh
# Smoke test of what is installed: what it is for, on ten drawn images, on the CPU. Inside an image it
# must not be root; `make dist-test` runs it in clean environments too.
#
#   docker run --rm --entrypoint sh tokenstore-reader:0.1.0 /opt/smoke.sh reader [STORE]
#   docker run --rm --entrypoint sh tokenstore-build:0.1.0  /opt/smoke.sh build
#   docker run --rm --entrypoint sh seit-train:0.1.0        /opt/smoke.sh train
set -eu

target=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
[ ! -d /opt/lock ] || [ "$(id -u)" -ne 0 ] || { echo "runs as root" >&2; exit 1; }
tokenstore --version

if [ "$target" = reader ]; then
    # No torch, and no way to make tokens: a store of drawn ids is imported, verified and described.
    python3 - <<'PYTHON'
import importlib.util

import numpy as np

assert importlib.util.find_spec("torch") is None, "torch is in the image of readers"
np.save("ids.npy", np.random.default_rng(0).integers(0, 1024, (10, 16, 16)))
PYTHON
    tokenstore import npy ids.npy -o drawn.tokenstore
    tokenstore verify drawn.tokenstore
    tokenstore info drawn.tokenstore
    if [ $# -gt 1 ]; then tokenstore verify "$2"; fi
    echo "reader: ok"
    exit 0
fi

python3 - <<'PYTHON'
from pathlib import Path

import numpy as np
from PIL import Image

Path("photos").mkdir()
rng = np.random.default_rng(0)
for number in range(10):
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    coarse.resize((128, 128)).save(f"photos/{number}.png")
PYTHON
tokenstore build photos -o photos.tokenstore --image-size 128 --device cpu
tokenstore verify photos.tokenstore
if [ "$target" = train ]; then
    seit-train mtm photos.tokenstore -o run epochs=null steps=2 batch_size=8 \
        optim.warmup_epochs=0
fi
echo "$target: ok"
