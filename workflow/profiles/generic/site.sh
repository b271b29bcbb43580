# The three things that are asked of your scheduler: here for Grid Engine. A job is known as NUMBER@RECORD; how it ended stands in
# RECORD.code, whatever the scheduler remembers.
set -euo pipefail

# Prints the job's number. SIGUSR1 comes to it so many seconds before its time is up.
# Memory is counted for each slot; gpu has to be counted for the job (consumable JOB), and is seldom called otherwise.
submit() { # threads, MB, minutes, seconds, GPUs, log, script
  local limits="mem_free=$(($2 / $1))M,h_rt=$(($3 * 60)),s_rt=$(($3 * 60 - $4))"
  if (($5)); then limits+=",gpu=$5"; fi
  qsub -terse -S /bin/bash -cwd -V -j y -o "$6" -pe smp "$1" -l "$limits" "$7"
}
# Whether it waits or runs, as far as is known: yes while the scheduler does not answer, no if it is stuck in an error.
is_queued() {
  local jobs
  jobs=$(qstat -u "$(id -un)") || return 0
  awk -v job="$1" '$1 == job && $5 !~ /E/ { found = 1 } END { exit !found }' <<< "$jobs"
}
cancel() { qdel "$@"; }
