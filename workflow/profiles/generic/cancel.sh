#!/usr/bin/env bash
# NUMBER@RECORD ...: end jobs.
source "${BASH_SOURCE%/*}/site.sh"
cancel "${@%%@*}"
