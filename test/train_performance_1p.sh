#!/usr/bin/env bash
# Measures the speed of fine-tuning on COCO on one device: 200 iterations, without validation.
source "$(dirname "$0")/fine_tune_coco.sh"
fine_tune_coco 1 OUTPUT/train_performance_1p --resume none SOLVER.MAX_EPOCH 0 SOLVER.MAX_ITER 200 \
  TEST.DURING_TRAINING False "$@"
