"""Historical import path of COCO's figures."""
