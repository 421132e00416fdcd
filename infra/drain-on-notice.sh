#!/bin/sh
# For a spot node on EC2: waits for the notice that comes two minutes before its end, and tells Ray,
# so that its workers take no more shards, commit what they have in hand, and leave. Runs beside
# `ray start`, with the same environment:   infra/drain-on-notice.sh HEAD:6379
set -u
metadata=${EC2_METADATA:-http://169.254.169.254}/latest

noticed() {
    session=$(curl -fsS -m 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/api/token") &&
        curl -fs -m 5 -o /dev/null -H "X-aws-ec2-metadata-token: $session" \
            "$metadata/meta-data/spot/instance-action"
}

until noticed; do sleep 5; done
# Without an id (or RAY_ADDRESS) `ray drain-node` starts a Ray of its own and drains that.
node=$(python -c 'import sys, ray; ray.init(sys.argv[1], logging_level="ERROR"); print(ray.get_runtime_context().get_node_id())' "$1") &&
    ray drain-node --address "$1" --node-id "$node" --reason DRAIN_NODE_REASON_PREEMPTION \
        --reason-message 'spot notice' --deadline-remaining-seconds 100
