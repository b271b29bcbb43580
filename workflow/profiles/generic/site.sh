# The three commands of your scheduler: here for Grid Engine. A job is known as NUMBER@RECORD; its
# exit code is written to RECORD.code, whatever the scheduler remembers.
set -euo pipefail

# Prints the job's number. The job gets SIGUSR1 that many seconds before its time is up.
# Memory is counted for each slot; gpu must be counted for the job (consumable JOB), and may have
# another name.
submit() { # threads, MB, minutes, seconds, GPUs, log, script
  local limits="mem_free=$(($2 / $1))M,h_rt=$(($3 * 60)),s_rt=$(($3 * 60 - $4))"
  if (($5)); then limits+=",gpu=$5"; fi
  qsub -terse -S /bin/bash -cwd -V -j y -o "$6" -pe smp "$1" -l "$limits" "$7"
}
# Whether it waits or runs: yes while the scheduler does not answer, no if it is stuck in an error.
is_queued() {
  local jobs
  jobs=$(qstat -u "$(id -un)") || return 0
  awk -v job="$1" '$1 == job && $5 !~ /E/ { found = 1 } END { exit !found }' <<< "$jobs"
}
cancel() { qdel "$@"; }
