"""What trainings ask of SLURM beyond threads, memory and time."""

from workflow.lib.paths import Wildcards
from workflow.lib.resources import RuleRequest
from workflow.lib.study import Study
from workflow.lib.training import saving_seconds


class Slurm:
    """Resource functions of the trainings.

    Args:
        study: the experiments.
        training: what a training segment asks for.
    """

    def __init__(self, study: Study, training: RuleRequest) -> None:
        self.study, self.training = study, training

    def warning(self, wildcards: Wildcards) -> int:
        """Seconds before its end at which a training is warned: its save, at most a third."""
        limit = 60 * self.training.runtime(wildcards)
        return min(saving_seconds(self.study, wildcards), limit // 3)

    def options(self, wildcards: Wildcards) -> str:
        """The warning; and as many GPUs on each of several nodes."""
        granted = self.study.resources_of(wildcards).train
        options = f"--signal=USR1@{self.warning(wildcards)}"
        if granted.gpu and granted.nodes > 1:
            options += f" --gpus-per-node={granted.gpu // granted.nodes}"
        return options

    def launcher(self, wildcards: Wildcards) -> str:
        """What starts a training on several nodes: a task on each; all end if one fails."""
        granted = self.study.resources_of(wildcards).train
        tasks = f"--nodes={granted.nodes} --ntasks={granted.nodes} --ntasks-per-node=1"
        options = f"--cpus-per-task={granted.threads} --cpu-bind=q --kill-on-bad-exit=1"
        return f"srun {tasks} {options} "
