#!/usr/bin/env bash
# threads MB minutes seconds GPUs script: submit a job that records its exit code. The warning that
# all its processes get before its end is for the training, which saves.
source "${BASH_SOURCE%/*}/site.sh"
mkdir -p results/cluster
record=$(mktemp "$PWD/results/cluster/job-XXXXXXXX")
job='#!/usr/bin/env bash\ntrap "" USR1 TERM\nsh %q\ncode=$?\necho $code > %q\nexit $code\n'
# shellcheck disable=SC2059
printf "$job" "$6" "$record.code" > "$record"
number=$(submit "${@:1:5}" "$record.log" "$record")
echo "$number@$record"
