# git clone --depth 1 https://github.com/huggingface/pytorch-image-models && pip install ".[examples]" && sh examples/timm_script.sh pytorch-image-models/train.py FOLDER
#
# timm's own training script, unmodified: TrAct is one argument, and its options come from the environment. FOLDER has
# train/<class>/<image> and validation/<class>/<image>; what follows it goes to the script, as in
#
#   sh examples/timm_script.sh pytorch-image-models/train.py FOLDER --model vit_tiny_patch16_224 --epochs 10 --amp --model-ema
#
# On N GPUs, with one covariance of the whole batch: torchrun --nproc-per-node N in place of python.
script=$1 folder=$2
shift 2
export TRACT_FX_LAM="${TRACT_FX_LAM:-0.1}" TRACT_FX_PROCESS_GROUP=ddp
exec python "$script" --data-dir "$folder" --model resnet18 --torchcompile tract "$@"
