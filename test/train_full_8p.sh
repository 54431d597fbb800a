#!/usr/bin/env bash
# Fine-tunes on COCO for three epochs on eight devices (PROCESSES=4: four), with a validation after each. Arguments: see fine_tune_coco.sh.
source "$(dirname "$0")/fine_tune_coco.sh"
fine_tune_coco "${PROCESSES:-8}" OUTPUT/train_full_8p "$@"
