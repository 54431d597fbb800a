#!/usr/bin/env bash
# Fine-tunes on COCO for three epochs on one device, with a validation after each. Arguments: see fine_tune_coco.sh.
source "$(dirname "$0")/fine_tune_coco.sh"
fine_tune_coco 1 OUTPUT/train_full_1p "$@"
