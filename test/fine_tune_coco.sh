# The fine-tuning on COCO that the scripts beside this file run; they source it and call
#   fine_tune_coco PROCESSES OUTPUT_DIR ARGUMENTS...
# Data lie in ./coco or DATASET/coco, the weights in pretrain/. Later arguments override earlier ones, so anything can be
# changed on the command line of a script: --config-file, --override_output_dir, MODEL.WEIGHT, SOLVER.IMS_PER_BATCH (over
# all processes), SOLVER.USE_AMP, SOLVER.MAX_EPOCH and every other key. At its end a run prints accuracy and throughput.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fine_tune_coco() {
  local processes=$1 output=$2
  shift 2
  local launch=(python)
  if [ "$processes" -gt 1 ]; then
    launch+=(-m torch.distributed.run --standalone --nproc_per_node "$processes")
  fi
  "${launch[@]}" tools/train_net.py \
    --config-file configs/pretrain/glip_Swin_T_O365_GoldG.yaml --override_output_dir "$output" \
    MODEL.WEIGHT pretrain/glip_tiny_model_o365_goldg_cc_sbu.pth \
    DATASETS.TRAIN '("coco_grounding_train",)' DATASETS.TEST '("coco_2017_val",)' DATASETS.DISABLE_SHUFFLE True \
    SOLVER.IMS_PER_BATCH "$processes" SOLVER.USE_AMP True SOLVER.MAX_EPOCH 3 SOLVER.CHECKPOINT_PER_EPOCH 1.0 \
    SOLVER.BASE_LR 0.00001 SOLVER.LANG_LR 0.00001 SOLVER.STEPS '(0.67, 0.89)' \
    TEST.DURING_TRAINING True TEST.EVAL_TASK detection TEST.IMS_PER_BATCH "$processes" \
    "$@"
}
