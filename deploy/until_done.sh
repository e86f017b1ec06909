#!/bin/bash
# deploy/until_done.sh COMMAND ...: the command, and again as long as its work fails or it is killed, twenty times at most.
# What another try would not change is final: 0 done, 2 usage or input, 3 another's folder, 4 rows in quarantine, 130 ended
# by a person. TERM goes to the command once, which then finishes what it is at; there is no other try.
set -m  # a process group of its own, so that a TERM to this one does not reach it twice
tell() { [[ -n $child && -z $told ]] && told=1 && kill -TERM "$child"; }
trap 'stopped=1; tell' TERM INT
for ((tries = 0; tries <= 20; tries++)); do
  "$@" &
  child=$!
  [[ -n $stopped ]] && tell  # it came while the command was started
  wait "$child"
  code=$?
  if [[ -n $stopped ]]; then
    ((code > 128)) && { wait "$child"; code=$?; }  # the first wait ended when the signal came
    exit "$code"
  fi
  case $code in 0 | 2 | 3 | 4 | 130) exit "$code" ;; esac
  echo "ended with $code; again in ${WAIT_S:-30} s" >&2
  child=
  sleep "${WAIT_S:-30}"
  [[ -n $stopped ]] && break
done
exit "$code"
