"""The parts of the detection head: dynamic convolutions, box branches, alignment with the words."""
