"""A SLURM on one machine: two pretended nodes with two pretended GPUs each, all below one directory, stopped by number."""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "selftrans-slurm-"
USUAL = Path("/etc/slurm/slurm.conf")
NAMES = "127.0.0.1 n1 n2 # selftrans-slurm\n"
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
ProctrackType=proctrack/linuxproc
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
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=12000 Gres=gpu:2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=12000 Gres=gpu:2 State=UNKNOWN
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
    for path in (USUAL, USUAL.with_name("gres.conf")):
        if os.path.lexists(path) and PREFIX not in str(path.readlink() if path.is_symlink() else ""):
            return f"{path} is there: this machine has a SLURM of its own"
    return None


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


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
        devices = []
        for number in range(2):
            device = root / f"dev/fakegpu{number}"
            subprocess.run(["mknod", device, "c", "1", "3"], check=True)
            devices.append(device)
        lines = ["AutoDetect=off"]
        lines += [f"NodeName={node} Name=gpu Count=2 File={root}/dev/fakegpu[0-1]" for node in ("n1", "n2")]
        (root / "gres.conf").write_text("\n".join(lines) + "\n")
        # The executor's job step forgets SLURM_CONF: the usual place leads here.
        USUAL.parent.mkdir(exist_ok=True)
        for name in ("slurm.conf", "gres.conf"):
            link = USUAL.with_name(name)
            link.unlink(missing_ok=True)
            link.symlink_to(root / name)

    def name_nodes(self):
        """n1 and n2 are this machine: the first one's name is where the processes of a job meet."""
        hosts = Path("/etc/hosts")
        hosts.write_text(hosts.read_text().replace(NAMES, "").rstrip("\n") + "\n" + NAMES)

    def start(self):
        self.name_nodes()
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        options = {"key-file": key, "socket": self.root / "munge.socket", "pid-file": self.root / "munged.pid"}
        options |= {"log-file": self.root / "munged.log", "seed-file": self.root / "munged.seed"}
        words = ["munged", "--force", *(f"--{name}={path}" for name, path in options.items())]
        subprocess.run(words, check=True, capture_output=True, timeout=30)
        subprocess.run(["slurmctld", "-f", self.configuration, "-c"], check=True, capture_output=True, timeout=30)
        for node in ("n1", "n2"):
            words = ["slurmd", "-f", self.configuration, "-c", "-N", node]
            subprocess.run(words, check=True, capture_output=True, timeout=30)
        until = time.monotonic() + 30
        while self.say("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T").split() != ["idle", "idle"]:
            assert time.monotonic() < until, self.say("sinfo") + self.logs()
            time.sleep(0.3)

    def stop(self):
        """End the jobs and the daemons, by their numbers."""
        with suppress(Exception):
            self.say("scancel", "--user=root")
            self.wait_for(lambda: not self.jobs("RUNNING", "COMPLETING"), seconds=40)
        for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "munged"):
            with suppress(FileNotFoundError, ProcessLookupError, ValueError):
                number = int((self.root / f"{name}.pid").read_text())
                os.kill(number, signal.SIGTERM)
                until = time.monotonic() + 10
                while Path(f"/proc/{number}").exists() and time.monotonic() < until:
                    time.sleep(0.1)
                os.kill(number, signal.SIGKILL)
        hosts = Path("/etc/hosts")
        hosts.write_text(hosts.read_text().replace(NAMES, ""))
        for name in ("slurm.conf", "gres.conf"):
            USUAL.with_name(name).unlink(missing_ok=True)

    def say(self, *words):
        """What a command of SLURM answers."""
        return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout

    def jobs(self, *states):
        """Numbers, states and names of rules of the jobs in the queue."""
        lines = self.say("squeue", "-h", "-o", "%i|%T|%k|%P").splitlines()
        found = [dict(zip(("id", "state", "comment", "partition"), line.split("|"), strict=True)) for line in lines]
        return [job for job in found if not states or job["state"] in states]

    def wait_for(self, condition, seconds=120):
        """Poll until a condition holds, and return what it says."""
        until = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < until, self.say("squeue") + self.logs()
            time.sleep(0.3)
        return found

    def logs(self):
        return "\n".join(path.read_text()[-1500:] for path in self.root.glob("*.log"))
