"""Historical import path of the recall on Flickr30k."""
