"""Model stitching: measures of a network stitched from the front of one network and the end of another."""
