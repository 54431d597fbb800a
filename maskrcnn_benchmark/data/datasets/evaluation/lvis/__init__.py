"""Historical import path of the LVIS evaluation."""
