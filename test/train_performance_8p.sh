#!/usr/bin/env bash
# Measures the speed of fine-tuning on COCO on eight devices (PROCESSES=4: four): 200 iterations, without validation.
source "$(dirname "$0")/fine_tune_coco.sh"
fine_tune_coco "${PROCESSES:-8}" OUTPUT/train_performance_8p --resume none SOLVER.MAX_EPOCH 0 SOLVER.MAX_ITER 200 \
  TEST.DURING_TRAINING False "$@"
