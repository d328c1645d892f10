"""A SLURM of one node, for tests: controller and node daemon as children, on ports of their own.

Needs Debian's slurmctld, slurmd, slurm-client and munge, and root. Two CPUs are claimed, whatever
the machine has.
"""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "setpriv")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
SlurmctldPort={port}
SlurmdPort={node_port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no SLURM here, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        return f"needs {', '.join(absent)} (apt-get install slurmctld slurmd slurm-client munge)"
    return None if os.geteuid() == 0 else "needs root, to start the daemons of SLURM"


def _path() -> str:
    """The commands of this environment first: jobs must find `tokenstore` and `seit-train`."""
    return f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _munge_words(folder: Path) -> list[str]:
    """A munged of our own: another key and socket than that of the machine, if it runs one."""
    place = folder / "munge"
    place.mkdir()
    (place / "key").write_bytes(os.urandom(1024))
    (place / "key").chmod(0o600)
    user = pwd.getpwnam("munge")
    for path in (place, place / "key"):
        os.chown(path, user.pw_uid, user.pw_gid)
    place.chmod(0o755)
    words = ["setpriv", "--reuid", "munge", "--regid", "munge", "--clear-groups", "munged"]
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
    options = [f"--{name}={place / file}" for name, file in files.items()]
    return [*words, "--foreground", "--force", f"--seed-file={place / 'seed'}", *options]


@contextmanager
def slurm_node(folder: Path):
    """The environment in which sbatch reaches a node that takes jobs.

    `folder` must have a short path that everybody may enter, as a socket lies in it.
    """
    for name in ("state", "spool", "log"):
        (folder / name).mkdir()
    port, node_port, training_port = _free_ports(3)
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.format(host=host, folder=folder, port=port, node_port=node_port))
    environment = os.environ | {"SLURM_CONF": str(conf), "PATH": _path()}
    environment |= {"PORT": str(training_port)}
    words = [_munge_words(folder), ["slurmctld", "-D"], ["slurmd", "-D"]]
    daemons = []
    try:
        for command in words:
            log = (folder / "log" / f"{len(daemons)}.out").open("wb")
            with log:
                daemons.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
                )
            time.sleep(1)
        _wait_until_idle(environment, folder)
        yield environment
    finally:
        stop = ["scancel", "--user=root", "--signal=KILL", "--full"]  # they outlive the daemons
        subprocess.run(stop, env=environment, check=False, capture_output=True, timeout=60)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _wait_until_idle(environment, folder, seconds=60):
    deadline = time.monotonic() + seconds
    command = ["sinfo", "--noheader", "--format=%t"]
    while time.monotonic() < deadline:
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ran.stdout.strip() == "idle":
            return
        time.sleep(1)
    logs = "\n".join(path.read_text(errors="replace") for path in (folder / "log").iterdir())
    raise AssertionError(f"the node is not idle: {ran.stdout} {ran.stderr}\n{logs[-3000:]}")
