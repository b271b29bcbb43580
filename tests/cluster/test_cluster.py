"""The workflow on a real SLURM: what it requests, and what clusters do to jobs."""

import json
import os
import re
import signal
import subprocess
import sys
from itertools import combinations

import pandas as pd
import pytest
import torch

from selftrans.runtime.files import read_json
from selftrans.runtime.signals import die_with_parent
from selftrans.runtime.tensors import load_tensors
from tests.support.experiments import tiny_values
from tests.support.programs import run_command
from tests.support.workplace import Workplace

pytestmark = pytest.mark.cluster

SLURM = ("--workflow-profile", "workflow/profiles/slurm")
FAST = (
    "--slurm-init-seconds-before-status-checks", "3", "--seconds-between-status-checks", "1",
    "--latency-wait", "10", "--max-status-checks-per-second", "1",
)  # fmt: skip
STEPS = 500  # of the trainings that something happens to
TARGET = "results/{}/runs/sit/seed0/checkpoints/{}/ema.safetensors"
REQUESTED = {
    "data": {"gpu": 1, "mem_mb": 1100, "runtime": 6},
    "extract": {"gpu": 1, "mem_mb": 1200, "runtime": 7},
    "train": {"gpu": 1, "mem_mb": 1500, "runtime": 8},
    "generate": {"gpu": 2, "mem_mb": 1400, "runtime": 9},
    "evaluate": {"gpu": 1, "mem_mb": 1300, "runtime": 10},
    "light": {"mem_mb": 1000, "runtime": 5},
}
# By rule: GPUs, memory, time limit, partition.
DECLARED = {
    "autoencoder": (1, "1100M", "00:06:00", "gpu"),
    "classifier": (1, "1100M", "00:06:00", "gpu"),
    "reference_statistics": (1, "1100M", "00:06:00", "gpu"),
    "extract_latents": (1, "1200M", "00:07:00", "gpu"),
    "train_segment": (1, "1500M", "00:08:00", "gpu"),
    "freeze_teacher": (0, "1000M", "00:05:00", "cpu"),
    "class_examples": (0, "1000M", "00:05:00", "cpu"),
    "generate_samples": (2, "1400M", "00:09:00", "gpu"),
    "evaluation": (
        1,
        "1300M",
        "00:15:00",
        "gpu",
    ),  # features, then metrics: a group requests both times
}
# There is no GPU: a process that is told to use some records which cards it would compute on,
# and computes on the CPU.
COMMAND = """#!/usr/bin/env bash
words=("$@")
nodes=1
gpus=1
for ((k = 0; k < $#; k++)); do
  case ${words[k]} in
    --device) at=$((k + 1)) ;;
    --processes) gpus=${words[k + 1]} ;;
    --nodes) nodes=${words[k + 1]} ;;
  esac
done
if [[ "$1 $2" != "-m selftrans" || -z ${at:-} || ${words[at]} != cuda ]]; then
  exec PYTHON "$@"
fi
words[at]=cpu
given=$(scontrol -d show job $SLURM_JOB_ID \
  | grep -o "Nodes=$SLURMD_NODENAME .*GRES=gpu:[^ ]*" | grep -o "IDX:[^)]*")
lease="from selftrans.runtime import devices; devices.lease_gpus($gpus // $nodes); \
print(*devices.visible_gpus(), sep=',')"
used=$(PYTHON -c "$lease")
begun=$(date +%s.%N)
PYTHON "${words[@]}"
code=$?
printf '%s|' "$3" "$SLURM_JOB_ID" "$SLURMD_NODENAME" "$CUDA_VISIBLE_DEVICES" \
  "$given" "$used" "$begun" >> CARDS
date +%s.%N >> CARDS
exit $code
"""
# What takes long elsewhere takes long here, on any machine: a training takes a minute, since it
# waits at every step as it checks whether to stop, and a large state takes a while to save.
# A test has less patience with an owner elsewhere.
HABITS = """
import os, time
from selftrans.runtime import lock, signals
lock.STALE_SECONDS = 40
reason = signals.StopRequest.reason.fget
signals.StopRequest.reason = property(lambda stop: time.sleep(0.1) or reason(stop))
if seconds := float(os.environ.get("SLOW_DISK", 0)):
    fsync = os.fsync
    def slowly(descriptor):
        # A state is larger than anything else.
        time.sleep(seconds if os.fstat(descriptor).st_size > 1_000_000 else 0)
        fsync(descriptor)
    os.fsync = slowly
"""


def numbers_of_jobs(said):
    """The jobs that Snakemake has submitted, in order."""
    return re.findall(r"SLURM jobid (\d+)", said)


class ClusterWorkplace(Workplace):
    """A copy of the workflow with tiny experiments, on a cluster."""

    def __init__(self, directory, cluster):
        super().__init__(directory)
        self.cluster = cluster
        self.started = []
        runs = {name: tiny_values()["runs"][name] for name in ("vae-align", "self-transcendence")}
        once = {
            "training.checkpoints": [4],
            "figures.sample_checkpoints": [4],
            "resources": REQUESTED,
        }
        self.write("tiny", runs=runs, **once)
        pair = {"train": {"nodes": 2, "gpu": 2, "mem_mb": 1500, "runtime": 8}}
        self.write("pair", **{**once, "runs": {"vae-align": runs["vae-align"]}, "resources": pair})
        (directory / "sitecustomize.py").write_text(HABITS)
        shim = directory / "bin/python"
        shim.parent.mkdir()
        shim.write_text(
            COMMAND.replace("PYTHON", sys.executable).replace("CARDS", str(directory / "cards"))
        )
        shim.chmod(0o755)

    def write_disturbed(self, name, nodes=1, save_seconds=3):
        """A training without GPUs that saves every few seconds, by a process on each node."""
        slow = {
            "training.checkpoints": [STEPS],
            "figures.sample_checkpoints": [STEPS],
            "training.log_every": STEPS,
        }
        slow |= {"training.save_minutes": save_seconds / 60}
        slow["resources"] = {
            "train": {"nodes": nodes, "processes": nodes, "mem_mb": 1500, "runtime": 7}
        }
        self.write(name, runs={"sit": {}}, **slow)

    def start(self, *words, profile=(*SLURM, *FAST), slow_disk=0):
        command = ["snakemake", *words, *profile]
        environment = {**os.environ, "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}"}
        environment |= {"PYTHONPATH": str(self.directory), "SLOW_DISK": str(slow_disk)}
        environment.pop("OMP_NUM_THREADS", None)
        log = self.directory / "snakemake.log"
        with log.open("w") as file:
            places = {"cwd": self.directory, "env": environment, "stdout": file, "stderr": file}
            process = subprocess.Popen(command, preexec_fn=die_with_parent, **places)  # noqa: PLW1509
        self.started.append(process)
        return process

    def end(self):
        """End what a failed test left running."""
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()

    def run(self, *words, seconds=600, **options):
        return self.start(*words, **options).wait(seconds)

    def said(self):
        return (self.directory / "snakemake.log").read_text()

    def cards(self):
        """Which job used which cards, and when.

        Command, job, node, CUDA_VISIBLE_DEVICES, SLURM's own indices, those used, begin and end.
        """
        names = ("command", "job", "node", "visible", "given", "used", "begun", "ended")
        lines = (self.directory / "cards").read_text().splitlines()
        return [dict(zip(names, line.split("|"), strict=True)) for line in lines]

    def status(self, experiment):
        """What `selftrans status` says of an experiment's only run."""
        rows = run_command("--project", self.directory, "status", "--json").stdout
        (row,) = [row for row in json.loads(rows) if row["experiment"] == experiment]
        return row

    def state(self, experiment):
        return self.directory / f"results/{experiment}/runs/sit/seed0/state"

    def saved_steps(self, experiment):
        return sorted(
            int(path.stem.split("-")[1])
            for path in self.state(experiment).glob("step-*.safetensors")
        )

    def log(self, experiment):
        return (
            self.directory / f"results/{experiment}/runs/sit/seed0/logs/train-{STEPS}.log"
        ).read_text()

    def weights(self, experiment, run="sit", step=STEPS):
        checkpoint = f"results/{experiment}/runs/{run}/seed0/checkpoints/{step}"
        return load_tensors(self.directory / checkpoint / "raw.safetensors", "weights")[0]

    def train_here(self, experiment, processes=1):
        """The weights of one of these trainings, without a cluster and as fast as it goes."""
        directory = self.directory / f"here-{processes}"
        words = [
            sys.executable,
            "-m",
            "selftrans",
            "train",
            f"experiments/{experiment}.yaml",
            "--run",
            "sit",
        ]
        words += [
            "--seed",
            0,
            "--until",
            STEPS,
            "--latents",
            "results/data/tiny/latents/manifest.json",
        ]
        words = [*map(str, words), "--processes", str(processes), "--directory", str(directory)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(words, cwd=self.directory, env=environment, check=True, capture_output=True)
        return load_tensors(directory / f"checkpoints/{STEPS}/raw.safetensors", "weights")[0]

    def start_training(self, experiment, *, slow_disk=0, retries=3, **disturbed):
        """Submit one training and wait until it has saved once; Snakemake's process and the job."""
        self.write_disturbed(experiment, **disturbed)
        self.configure(experiment, retries=retries)
        process = self.start(TARGET.format(experiment, STEPS), slow_disk=slow_disk)
        self.cluster.wait_for(lambda: self.saved_steps(experiment) or process.poll() is not None)
        assert process.poll() is None, self.said()
        (job,) = self.cluster.jobs("RUNNING")
        return process, job


@pytest.fixture(scope="module")
def place(cluster, tmp_path_factory):
    made = ClusterWorkplace(tmp_path_factory.mktemp("place"), cluster)
    yield made
    made.end()


@pytest.fixture(scope="module")
def lifecycle(place):
    """What Snakemake said when it ran the whole lifecycle, and who got which cards."""
    place.configure("tiny")
    assert place.run("--jobs", "3") == 0, place.said()[-6000:]
    return place.said(), place.cards()


@pytest.fixture(scope="module")
def undisturbed(place):
    """The weights of the trainings that something happens to, if nothing does."""
    place.write_disturbed("undisturbed")
    place.configure("undisturbed")
    assert place.run("latents", profile=("--cores", "2")) == 0, place.said()
    return place.train_here("undisturbed")


def assert_bit_equal(found, expected):
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_jobs_ask_slurm_for_what_their_rules_declare(lifecycle, place, cluster):
    directory = place.directory / "results/tiny"
    assert len(pd.read_csv(directory / "metrics.csv")) == 2
    assert (directory / "figures/convergence.png").is_file()
    jobs = {}
    for number in numbers_of_jobs(lifecycle[0]):
        found = cluster.job(number)
        rule = re.sub(r"^rule_|_(wildcards|metrics_sample).*$", "", found["Comment"])
        gpus = re.search(r"gpu:(\d+)", found.get("TresPerJob", ""))
        memory = re.search(r"mem=(\w+)", found["TRES"])[1]
        requested = (int(gpus[1]) if gpus else 0, memory, found["TimeLimit"], found["Partition"])
        assert requested == DECLARED[rule], rule
        assert (found["NumNodes"], found["NumCPUs"], found["JobState"]) == ("1", "1", "COMPLETED")
        jobs[rule] = jobs.get(rule, 0) + 1
    # What draws and tabulates does not wait in a queue.
    several = {"train_segment": 2, "generate_samples": 2, "evaluation": 2}
    assert jobs == {rule: several.get(rule, 1) for rule in DECLARED}


def test_a_job_sees_the_cards_that_slurm_leases_to_it(lifecycle):
    """As many as declared, those of SLURM's own books, and never a card in two jobs at a time."""
    used = lifecycle[1]
    commands = {one["command"] for one in used}
    assert commands >= {"train", "generate", "statistics", "extract", "autoencoder"}
    for one in used:
        assert one["given"].startswith("IDX:"), one
        first, _, last = one["given"].removeprefix("IDX:").partition("-")
        assert one["visible"] == ",".join(map(str, range(int(first), int(last or first) + 1)))
        assert one["used"] == one["visible"]
        assert len(one["visible"].split(",")) == (2 if one["command"] == "generate" else 1)
    for one, other in combinations(used, 2):
        if one["node"] == other["node"] and {*one["visible"].split(",")} & {
            *other["visible"].split(",")
        }:
            assert one["ended"] <= other["begun"] or other["ended"] <= one["begun"]


def test_two_nodes_train_as_one_job(lifecycle, place, cluster):
    """Two GPUs on two nodes give one task with one card each; one process trains on one node."""
    place.configure("pair")
    target = "results/pair/runs/vae-align/seed0/checkpoints/4/ema.safetensors"
    assert place.run(target) == 0, place.said()
    (number,) = numbers_of_jobs(place.said())
    found = cluster.job(number)
    assert (found["NumNodes"], found["Partition"]) == ("2", "gpu")
    assert found["TresPerJob"] == "gres:gpu:2"
    cards = [one for one in place.cards() if one["job"] == number]
    assert {one["node"] for one in cards} == {"n1", "n2"}
    assert all(len(one["used"].split(",")) == 1 for one in cards)
    alone = place.weights("tiny", "vae-align", 4)
    for name, tensor in place.weights("pair", "vae-align", 4).items():
        torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-5)


def start_again(cluster, job):
    """A job that comes back is held for two minutes."""
    cluster.wait_for(lambda: [one for one in cluster.jobs("PENDING") if one["id"] == job["id"]])
    cluster.say("scontrol", "update", f"JobId={job['id']}", "StartTime=now")


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_preempted_job_saves_is_requeued_and_ends_with_the_same_bits(
    undisturbed, place, cluster, nodes
):
    """Its save takes seconds, as a large one does, and is waited for.

    On two nodes there is a process on each.
    """
    expected = undisturbed if nodes == 1 else place.train_here("undisturbed", processes=nodes)
    name = f"preempted-{nodes}"
    process, job = place.start_training(name, nodes=nodes, save_seconds=15, slow_disk=4)
    before = place.saved_steps(name)[-1]
    cluster.say(
        "sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1"
    )
    cluster.wait_for(lambda: [one for one in cluster.jobs("PENDING") if one["id"] == job["id"]])
    left_at = place.saved_steps(name)[-1]
    assert left_at > before
    cluster.wait_for(lambda: not [one for one in cluster.jobs() if one["partition"] == "urgent"])
    start_again(cluster, job)
    assert process.wait(300) == 0, place.said()
    assert cluster.job(job["id"])["Restarts"] == "1"
    assert f"resuming from step {left_at}" in place.log(name)
    assert_bit_equal(place.weights(name), expected)


def test_a_node_that_disappears_costs_what_was_not_saved(undisturbed, place, cluster):
    """Another node takes over as soon as it is sure that the first is gone."""
    process, job = place.start_training("lost")
    cluster.lose_node(job["nodes"], job["id"])
    saved = place.saved_steps("lost")[-1]
    try:
        start_again(cluster, job)
        assert process.wait(300) == 0, place.said()
    finally:
        cluster.start_node(job["nodes"])
    assert cluster.job(job["id"])["Restarts"] == "1"
    waiting = rf"waiting for process \d+ on {job['nodes']}, job \d+, to see whether it still"
    assert re.search(waiting, place.log("lost"))
    assert f"resuming from step {saved}" in place.log("lost")
    assert_bit_equal(place.weights("lost"), undisturbed)
    cluster.wait_for(lambda: cluster.states() == ["idle", "idle"])


def test_a_training_is_warned_before_its_time_is_up_and_resumes_in_another_job(
    undisturbed, place, cluster
):
    process, job = place.start_training("warned")
    cluster.say("scontrol", "update", f"JobId={job['id']}", "TimeLimit=1")
    cluster.wait_for(
        lambda: "SIGUSR1 at step" in place.log("warned")
    )  # before the next attempt begins the log again
    assert process.wait(300) == 0, place.said()
    assert len(numbers_of_jobs(place.said())) == 2
    assert_bit_equal(place.weights("warned"), undisturbed)


def test_a_job_cancelled_from_outside_is_an_error_and_no_hang(undisturbed, place, cluster):
    """And whoever asks sees by the files which job trains, and then that none does."""
    process, job = place.start_training("cancelled", retries=0)
    seen = place.status("cancelled")
    assert seen["state"] == "training"
    assert seen["owner"].endswith(f", job {job['id']}")
    assert seen["saved_age"] < 60
    cluster.say("scancel", job["id"])
    assert process.wait(200) != 0  # Snakemake asks ever more seldom
    assert "Error in rule train_segment" in place.said()
    assert place.status("cancelled")["state"] == "stopped"


def test_ctrl_c_cancels_the_jobs_and_the_next_call_finishes(undisturbed, place, cluster):
    process, _ = place.start_training("interrupted")
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    cluster.wait_for(lambda: not cluster.jobs("RUNNING", "PENDING", "COMPLETING"))
    assert place.run(TARGET.format("interrupted", STEPS)) == 0, place.said()
    assert_bit_equal(place.weights("interrupted"), undisturbed)


def test_a_second_writer_is_locked_out(undisturbed, place, cluster):
    """Snakemake is killed, its job is not; a second one is told who writes there."""
    process, job = place.start_training("abandoned", retries=0)
    process.kill()
    process.wait()
    assert cluster.jobs("RUNNING") == [job]
    subprocess.run(["snakemake", "--unlock"], cwd=place.directory, check=True, capture_output=True)
    assert place.run(TARGET.format("abandoned", STEPS)) != 0
    assert "another process writes there (process" in place.said()
    assert f"job {job['id']}" in place.said()
    cluster.wait_for(lambda: not cluster.jobs("RUNNING"))
    assert place.run(TARGET.format("abandoned", STEPS)) == 0, place.said()
    assert_bit_equal(place.weights("abandoned"), undisturbed)


def hold(cluster, state):
    """Jobs wait in the queue while the partitions are down."""
    for partition in ("cpu", "gpu"):
        cluster.say("scontrol", "update", f"PartitionName={partition}", f"State={state}")


def waits(cluster, name):
    """Whether the training of an experiment is in the queue."""
    return any(name in job["comment"] for job in cluster.jobs("PENDING"))


def start_queued(place, cluster, name):
    """Submit a short training that waits in the queue."""
    once = {"training.checkpoints": [4], "figures.sample_checkpoints": [4]}
    resources = {"train": {"mem_mb": 1500, "runtime": 7}}
    place.write(name, runs={"sit": {}}, resources=resources, **once)
    place.configure(name, retries=0)
    hold(cluster, "DOWN")
    process = place.start(TARGET.format(name, 4))
    cluster.wait_for(lambda: waits(cluster, name) or process.poll() is not None)
    assert process.poll() is None, place.said()
    return process


def test_a_queued_job_goes_by_what_was_submitted(undisturbed, place, cluster):
    """Steps, recipe and sampler are edited while it waits (Snakemake's issue 3234)."""
    process = start_queued(place, cluster, "queued")
    try:
        edited = {"training.checkpoints": [6], "figures.sample_checkpoints": [6]}
        edited |= {"training.learning_rate": 0.5, "evaluation.samplers.ode.num_steps": 3}
        place.write("queued", runs={"sit": {}}, **edited)
        planned = place.snakemake("-n", TARGET.format("queued", 6))
        assert planned.returncode == 0, planned.stderr  # the resolved file is the edited one now
    finally:
        hold(cluster, "UP")
    assert process.wait(300) == 0, place.said()
    definition = read_json(place.path("queued/runs/sit/seed0/definition.json"))
    assert definition["training"]["learning_rate"] == 1e-3


def test_a_queued_job_of_an_edited_rule_stops_in_one_line(undisturbed, place, cluster):
    process = start_queued(place, cluster, "outdated")
    rules = place.directory / "workflow/rules/train.smk"
    before = rules.read_text()
    try:
        rules.write_text(before.replace("--after {params.after}", "--after 0"))
        hold(cluster, "UP")
        assert process.wait(300) != 0
    finally:
        rules.write_text(before)
        hold(cluster, "UP")
    logs = place.path("slurm/rule_train_segment/outdated_sit_0_4").glob("*.log")
    said = "\n".join(path.read_text() for path in logs)
    assert (
        "error: workflow/rules/train.smk: was edited after this job was submitted;"
        " end Snakemake and start it again, its jobs resume"
    ) in said
    assert not place.path("outdated/runs/sit/seed0/checkpoints").exists()
