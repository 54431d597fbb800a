"""Historical import path of PASCAL VOC's figures."""
