"""A SLURM on one machine: two pretended nodes with two pretended GPUs each.

Everything lies below one directory, and its processes are stopped by number.

As a program, it waits for the end of its input, then stops the cluster below a directory.
"""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "selftrans-slurm-"
LINKS = [
    Path("/etc/slurm/slurm.conf"),
    Path("/etc/slurm/gres.conf"),
]  # the executor's job step forgets SLURM_CONF
NODES = ("n1", "n2")
NAMES = f"127.0.0.1 {' '.join(NODES)} # selftrans-slurm\n"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
CONFIGURATION = """
ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
SlurmdTimeout=20
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=600
InactiveLimit=0
KillWait=20
OverTimeLimit=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=12000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=12000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes=n[1-2] Default=YES MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=gpu Nodes=n[1-2] MaxTime=INFINITE PriorityTier=1 State=UP
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF State=UP
"""


def why_not() -> str | None:
    """Why no cluster can be started here; None if it can."""
    if os.geteuid() != 0:
        return "a SLURM of our own is started as root"
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"{missing[0]} is not there (apt-get install slurm-wlm munge)"
    with tempfile.TemporaryDirectory() as directory:
        for words in (
            ["mknod", f"{directory}/card", "c", "1", "3"],
            ["unshare", "--uts", "hostname", "n1"],
        ):
            ended = subprocess.run(words, capture_output=True, text=True)
            if ended.returncode:
                return f"devices and host names cannot be made here ({ended.stderr.strip()})"
    for path in LINKS:
        if os.path.lexists(path) and PREFIX not in str(
            path.readlink() if path.is_symlink() else ""
        ):
            return f"{path} is there: this machine has a SLURM of its own"
    if LINKS[0].is_symlink():
        with suppress(OSError, ValueError):
            root = LINKS[0].readlink().parent
            guard = int((root / "guard.pid").read_text())
            if str(root) in Path(f"/proc/{guard}/cmdline").read_text():
                return f"the cluster of other tests is running (process {guard})"
    return None


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def stop(root):
    """End the jobs, then the daemons."""
    with suppress(Exception):
        subprocess.run(["scancel", "--user=root"], check=True, timeout=30)
        until = time.monotonic() + 40
        while time.monotonic() < until and subprocess.check_output(
            ["squeue", "-h", "-t", "R,CG"], timeout=30
        ):
            time.sleep(0.3)
    stop_daemons(root)


def stop_daemons(root):
    """End what runs below a directory, by the numbers that stand there, and take its names back."""
    for name in (*(f"slurmd-{node}" for node in NODES), "slurmctld", "munged"):
        with suppress(FileNotFoundError, ProcessLookupError, ValueError):
            number = int((root / f"{name}.pid").read_text())
            until = time.monotonic() + 10
            # Its number may be another process's by now. One that has ended and is not yet
            # reaped has no command line.
            while str(root) in Path(f"/proc/{number}/cmdline").read_text():
                os.kill(number, signal.SIGTERM if time.monotonic() < until else signal.SIGKILL)
                time.sleep(0.2)
    hosts = Path("/etc/hosts")
    hosts.write_text(hosts.read_text().replace(NAMES, ""))
    for path in LINKS:
        path.unlink(missing_ok=True)


class Cluster:
    """The daemons, from start to stop."""

    def __init__(self, root: Path):
        self.root = root
        for name in ("state", "spool-n1", "spool-n2", "dev"):
            (root / name).mkdir(parents=True)
        self.host = socket.gethostname().split(".")[0]
        text = CONFIGURATION.format(root=root, host=self.host, ports=free_ports(3))
        self.configuration = root / "slurm.conf"
        self.configuration.write_text(text)
        for number in range(2):
            os.mknod(root / f"dev/fakegpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        lines = ["AutoDetect=off"]
        lines += [
            f"NodeName={node} Name=gpu Count=2 File={root}/dev/fakegpu[0-1]" for node in NODES
        ]
        (root / "gres.conf").write_text("\n".join(lines) + "\n")
        LINKS[0].parent.mkdir(exist_ok=True)
        if LINKS[0].is_symlink():  # of a cluster whose tests were killed
            stop_daemons(LINKS[0].readlink().parent)
        for link in LINKS:
            link.unlink(missing_ok=True)
            link.symlink_to(root / link.name)

    def name_nodes(self):
        """n1 and n2 are this machine: the first one's name is where the processes of a job meet."""
        hosts = Path("/etc/hosts")
        hosts.write_text(hosts.read_text().replace(NAMES, "").rstrip("\n") + "\n" + NAMES)

    def start(self):
        self.name_nodes()
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        options = {
            "key-file": key,
            "socket": self.root / "munge.socket",
            "pid-file": self.root / "munged.pid",
        }
        options |= {"log-file": self.root / "munged.log", "seed-file": self.root / "munged.seed"}
        words = ["munged", "--force", *(f"--{name}={path}" for name, path in options.items())]
        subprocess.run(words, check=True, capture_output=True, timeout=30)
        subprocess.run(
            ["slurmctld", "-f", self.configuration, "-c"],
            check=True,
            capture_output=True,
            timeout=30,
        )
        for node in NODES:
            self.start_node(node)
        self.wait_for(lambda: self.states() == ["idle", "idle"], seconds=30)

    def start_node(self, node):
        """A daemon that takes this machine for one of that name; so do its jobs."""
        words = [
            "unshare",
            "--uts",
            "sh",
            "-c",
            'hostname "$1" && exec slurmd -f "$2" -c -N "$1"',
            "sh",
        ]
        subprocess.run(
            [*words, node, self.configuration], check=True, capture_output=True, timeout=30
        )

    def lose_node(self, node, job):
        """A power failure: the daemon and all processes of a job on the node are killed."""
        os.kill(int((self.root / f"slurmd-{node}.pid").read_text()), signal.SIGKILL)
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                inside = f"SLURM_JOB_ID={job}".encode() in (process / "environ").read_bytes().split(
                    b"\0"
                )
                if inside or (process / "cmdline").read_bytes().startswith(
                    f"slurmstepd: [{job}.".encode()
                ):
                    os.kill(int(process.name), signal.SIGKILL)

    def states(self):
        """States of the nodes."""
        return self.say("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T").split()

    def say(self, *words):
        """What a command of SLURM answers."""
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout

    def jobs(self, *states):
        """The jobs in the queue, or those in some states."""
        lines = self.say("squeue", "-h", "-o", "%i|%T|%k|%P|%N").splitlines()
        names = ("id", "state", "comment", "partition", "nodes")
        found = [dict(zip(names, line.split("|"), strict=True)) for line in lines]
        return [job for job in found if not states or job["state"] in states]

    def wait_for(self, condition, seconds=120):
        """Poll until a condition holds, and return what it says."""
        until = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < until, self.say("squeue") + self.logs()
            time.sleep(0.3)
        return found

    def job(self, number):
        """What the controller knows of a job, also of one that has ended."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.say("scontrol", "show", "job", str(number))))

    def logs(self):
        return "\n".join(path.read_text()[-1500:] for path in self.root.glob("*.log"))


if __name__ == "__main__":
    sys.stdin.read()
    stop(Path(sys.argv[1]))
    shutil.rmtree(sys.argv[1], ignore_errors=True)
