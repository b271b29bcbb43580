#!/usr/bin/env bash
# threads MB minutes seconds GPUs script: submit a job that leaves word of how it ended. What all its processes are told before
# its end is for the training, which saves.
source "${BASH_SOURCE%/*}/site.sh"
mkdir -p results/cluster
record=$(mktemp "$PWD/results/cluster/job-XXXXXXXX")
printf '#!/usr/bin/env bash\ntrap "" USR1 TERM\nsh %q\ncode=$?\necho $code > %q\nexit $code\n' "$6" "$record.code" > "$record"
number=$(submit "${@:1:5}" "$record.log" "$record")
echo "$number@$record"
