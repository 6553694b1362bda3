"""A Slurm cluster of one machine for tests: munged, slurmctld, and two slurmd that pose as two nodes, all with files
and ports of their own, and ended at the end. `python -m tests.batch.slurm_cluster` prints why there cannot be one.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
NODES = ("node1", "node2")
CONF_OF_HOST = Path("/etc/slurm/slurm.conf")  # a link while the cluster runs: Snakemake's jobs drop SLURM_CONF
CONF = """
ClusterName=pretended
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core,CR_LLN
ReturnToService=2
KillWait=10
SlurmdParameters=config_overrides
NodeName=node1 NodeHostname=localhost Port={ports[1]} CPUs=2 RealMemory=8000
NodeName=node2 NodeHostname=localhost Port={ports[2]} CPUs=2 RealMemory=8000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why there cannot be a cluster here; empty if there can."""
    if CONF_OF_HOST.exists():
        return f"this host belongs to a cluster ({CONF_OF_HOST} exists)"
    if gone := [name for name in (*DAEMONS, "sbatch") if not _path(name)]:
        return f"there is no {gone[0]} here (Debian: apt-get install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "slurmd needs root"


def _path(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cluster:
    """Use it as a context manager; `env` is the environment in which commands of Slurm reach it."""

    def __init__(self, folder: Path):
        self.folder, self.started = folder, []

    def __enter__(self):
        for name in ("munge", "state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, mode=0o700)
        self.folder.chmod(0o755)
        key, conf = self.folder / "munge" / "key", self.folder / "slurm.conf"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        conf.write_text(CONF.format(folder=self.folder, ports=_free_ports(3)))
        self.env = {**os.environ, "SLURM_CONF": str(conf)}
        CONF_OF_HOST.symlink_to(conf)
        munge = {name: str(self.folder / "munge" / name) for name in ("socket", "pid-file", "log-file", "seed-file")}
        try:
            self._start("munged", "--foreground", "--force", "--key-file", str(key),
                        *(word for name, path in munge.items() for word in (f"--{name}", path)))
            _until(Path(munge["socket"]).exists)
            self._start("slurmctld", "-D")
            for node in NODES:
                self._start("slurmd", "-D", "-N", node)
            _until(lambda: self.call("sinfo", "--noheader", "--format=%T %D").strip() == "idle 2")
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, name: str, *options: str) -> None:
        with (self.folder / "daemons.log").open("a") as log:
            self.started.append(subprocess.Popen([_path(name), *options], env=self.env, stdout=log, stderr=log))

    def __exit__(self, *exc):
        CONF_OF_HOST.unlink()
        for process in reversed(self.started):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def call(self, *command: str) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(command, env=self.env, capture_output=True, text=True, timeout=60).stdout

    def jobs(self) -> dict[str, str]:
        """{number: state} of all jobs that wait or run."""
        lines = self.call("squeue", "--noheader", "--format=%A %T").splitlines()
        return dict(line.split() for line in lines)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _until(true, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("the cluster has not started")
        time.sleep(0.2)


if __name__ == "__main__":
    print(why_not() or "a cluster can be started here")
