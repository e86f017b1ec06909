"""Finds the objects of an image and checks them against a prompt: GroundingDINO, SAM, colours, GenEval's rules."""
