#!/usr/bin/env bash
# NUMBER@RECORD: success, failed or running.
source "${BASH_SOURCE%/*}/site.sh"
record=${1#*@}
if [[ -s $record.code ]]; then
  [[ $(< "$record.code") == 0 ]] && echo success || echo failed
elif is_queued "${1%%@*}"; then
  rm -f "$record.gone"
  echo running
else # ended without a word, or its word is still on its way through a network file system: a minute is left to it
  [[ -e $record.gone ]] || touch "$record.gone"
  [[ $(find "$record.gone" -mmin +1) ]] && echo failed || echo running
fi
