# The three things that are asked of your scheduler: here for Grid Engine. A job is known as NUMBER@RECORD; how it ended stands in
# RECORD.code, whatever the scheduler remembers.
set -euo pipefail

# Prints the job's number. SIGUSR1 comes to it so many seconds before its time is up.
submit() { # threads, MB, minutes, seconds, GPUs, log, script
  local limits="h_vmem=$(($2 / $1))M,h_rt=$(($3 * 60)),s_rt=$(($3 * 60 - $4))"
  if (($5)); then limits+=",gpu=$5"; fi
  qsub -terse -cwd -V -j y -o "$6" -pe smp "$1" -l "$limits" "$7"
}
is_queued() { qstat -j "$1" > /dev/null 2>&1; }
cancel() { qdel "$@"; }
