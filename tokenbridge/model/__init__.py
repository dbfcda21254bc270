"""The model: a masked backbone over positions, and a head over the channels of one token.

generator.Generator puts tokens, backbone and head together: its forward is the training loss, its sample the sampling
loop. heads/ holds the distributions of a token, masking and ordering which positions and channels come when. batches
draws what a training step sees, trainer.Trainer takes the step, costs tells operations and memory before anything runs.
"""
