#!/usr/bin/env bash
# NUMBER@RECORD: success, failed or running.
source "${BASH_SOURCE%/*}/site.sh"
record=${1#*@}
if [[ -s $record.code ]]; then
  [[ $(< "$record.code") == 0 ]] && echo success || echo failed
elif is_queued "${1%%@*}"; then
  rm -f "$record.gone"
  echo running
else # ended without its exit code, which a network file system may show late: wait a minute
  [[ -e $record.gone ]] || touch "$record.gone"
  [[ $(find "$record.gone" -mmin +1) ]] && echo failed || echo running
fi
