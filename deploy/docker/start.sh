#!/bin/sh
# Starts Ray, and the farm in it once Ray's dashboard answers; ends when Ray does.
set -e
ray get-auth-token --generate > /dev/null # makes a token if there is none
(until serve deploy deploy/serve.yaml; do sleep 2; done) &
exec ray start --head --block --resources '{"ingress": 2}' --metrics-export-port 8080 \
  --disable-usage-stats
