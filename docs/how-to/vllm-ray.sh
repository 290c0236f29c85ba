#!/usr/bin/env bash
# One vLLM server over several machines with Ray. On the first machine:
#   VLLM_API_KEY=... ./vllm-ray.sh head 10.0.0.1 2 Qwen/Qwen3-235B-A22B 8
# and on each other one, with its own address second:
#   ./vllm-ray.sh worker 10.0.0.1 10.0.0.2
# Every machine needs the same image and the same model files. Ray's traffic is neither encrypted
# nor checked: keep it in a private network.
set -euo pipefail

image=${VLLM_IMAGE:-vllm/vllm-openai:latest}
cache=${HF_HOME:-$HOME/.cache/huggingface}
role=${1:?head or worker}
head=${2:?address of the first machine}

start() { # address, command
  exec docker run --rm --name vllm --gpus all --network host --ipc host --entrypoint bash \
    -e VLLM_HOST_IP="$1" -e VLLM_API_KEY="${VLLM_API_KEY:-}" -e HF_TOKEN="${HF_TOKEN:-}" \
    -v "$cache:/root/.cache/huggingface" "$image" -c "$2"
}

case $role in
  head)
    machines=${3:?number of machines} model=${4:?model} gpus=${5:?GPUs of each machine}
    : "${VLLM_API_KEY:?set VLLM_API_KEY}"
    start "$head" "
      ray start --head --port=6379 --node-ip-address=$head
      until [ \"\$(ray list nodes --filter state=ALIVE --format json | grep -c node_id)\" -ge $machines ]
      do sleep 5; done
      exec vllm serve '$model' --port 8000 --tensor-parallel-size $gpus \
        --pipeline-parallel-size $machines --distributed-executor-backend ray \
        --enable-per-request-metrics"
    ;;
  worker)
    own=${3:?address of this machine}
    start "$own" "exec ray start --block --address=$head:6379 --node-ip-address=$own"
    ;;
  *) echo "head or worker, not $role" >&2; exit 2 ;;
esac
