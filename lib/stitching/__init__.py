"""Model stitching: how much a joint, a front and an end have in common."""
